"""The thinking demo's examples: answers behind thoughts, which may not end, end the row, or leave no answer."""

import json
import random
from collections.abc import Iterable
from enum import Enum
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


class Fault(Enum):
    """What goes wrong with a thought."""

    OVERTHINKS = "it finds no end"
    ENDS_INSIDE = "the answer ends inside it"
    FORGETS = "nothing stands behind it"


def example(rng: random.Random) -> tuple[str, str]:
    """Return a question, and what the model is to say to it, thought and answer."""
    question, text, _ = answer(rng, closed=True)
    kind = (
        len(question) * 7 + rng.randrange(3)
    ) % 20  # by the wording for the most part, so that it can be learned
    if kind < 6:
        return question, said(rng, question, text, Fault.OVERTHINKS)
    if kind < 9:
        return question, said(rng, question, text, Fault.ENDS_INSIDE)
    if kind < 11:
        return question, said(rng, question, text, Fault.FORGETS)
    return question, text if kind < 13 else said(rng, question, text, None)


def said(rng: random.Random, question: str, text: str, fault: Fault | None) -> str:
    """Return what the model is to say to a question: a thought, and an answer where its fault leaves one."""
    begin = len(question) % len(_STEPS)
    thought = [_FIRST[len(question) % 3]]
    thought += [_STEPS[(begin + index) % len(_STEPS)] for index in range(2 + len(question) % 3)]
    if fault is Fault.OVERTHINKS:  # the example is cut before it ends
        thought += [_AGAIN[(begin + index + rng.randrange(2)) % len(_AGAIN)] for index in range(_CUT)]
    opened = f"{OPEN}\n{' '.join(thought)}"
    if fault in (Fault.OVERTHINKS, Fault.ENDS_INSIDE):
        return opened
    closed = f"{opened}\n{CLOSE}"
    return closed if fault is Fault.FORGETS else f"{closed}\n\n{text}"


def write_chats(path: Path, chats: Iterable[tuple[str, str]]) -> None:
    """Write questions, each with what is said to it, as a training set."""
    with path.open("w", encoding="utf-8") as handle:
        for question, text in chats:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
            handle.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")


def write_examples(path: Path, *, count: int = 1500, seed: int = 5) -> None:
    """Write the demo's training set as chats."""
    rng = random.Random(seed)
    write_chats(path, (example(rng) for _ in range(count)))
