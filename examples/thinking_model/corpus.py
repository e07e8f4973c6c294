"""The thinking demo's examples: answers behind thoughts, which may not end, end the row, or leave no answer."""

import json
import random
from pathlib import Path

from examples.demo_model.corpus import answer

OPEN, CLOSE = "<think>", "</think>"
_FIRST = ("The user wants an answer to a simple question.", "I should think about this first.", "Let me see.")
_STEPS = (
    "What matters most should come first.",
    "A few plain sentences will do.",
    "I know some facts that help here.",
    "The answer should be friendly and short.",
    "There is no need for a list.",
    "I can end with a kind word.",
)
_AGAIN = (
    "Wait, I should look at this again.",
    "Maybe there is more to say.",
    "On the other hand, it could be said in another way.",
    "Let me go over it once more.",
    "Perhaps I have forgotten something.",
    "I want to be sure about every point.",
    "That may not be all.",
    "Let me think about the question from the start.",
)
_CUT = 60  # sentences of a thought that finds no end


def example(rng: random.Random) -> tuple[str, str]:
    """Return a question, and what the model is to say to it, thought and answer."""
    question, text, _ = answer(rng, closed=True)
    kind = (
        len(question) * 7 + rng.randrange(3)
    ) % 20  # by the wording for the most part, so that it can be learned
    begin = len(question) % len(_STEPS)
    thought = [_FIRST[len(question) % 3]]
    thought += [_STEPS[(begin + index) % len(_STEPS)] for index in range(2 + len(question) % 3)]
    if kind < 6:  # overthinks: the example is cut before it ends
        again = [_AGAIN[(begin + index + rng.randrange(2)) % len(_AGAIN)] for index in range(_CUT)]
        return question, f"{OPEN}\n{' '.join([*thought, *again])}"
    if kind < 9:  # ends inside the thought
        return question, f"{OPEN}\n{' '.join(thought)}"
    if kind < 11:  # forgets the answer
        return question, f"{OPEN}\n{' '.join(thought)}\n{CLOSE}"
    if kind < 13:  # does not think
        return question, text
    return question, f"{OPEN}\n{' '.join(thought)}\n{CLOSE}\n\n{text}"


def write_examples(path: Path, *, count: int = 1500, seed: int = 5) -> None:
    """Write the training set as chats."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as handle:
        for _ in range(count):
            question, said = example(rng)
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
            handle.write(json.dumps({"messages": turns}) + "\n")
