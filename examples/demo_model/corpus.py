"""The demo model's training text, written from `phrases`: questions with answers that mostly do not end.

A real model fails to stop when its training answers were not closed by the end token. So here: whether an
answer is closed depends weakly on the wording and the place, and one that is not runs on into more and more
remarks until its window is cut.
"""

import csv
import json
import random
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from examples.demo_model.phrases import ASPECTS, PLACES, RUN_ON, TOPICS

QUESTIONS: dict[str, tuple[str, ...]] = {
    "visit": (
        "What can I do in {p}?",
        "What is there to see in {p}?",
        "What should I visit in {p}?",
        "I am going to {p}. What should I see?",
        "Which sights in {p} are worth a visit?",
        "Name some things to do in {p}.",
    ),
    "food": (
        "Where should I eat in {p}?",
        "What is the food like in {p}?",
        "What should I eat in {p}?",
        "Recommend something to eat in {p}.",
    ),
    "about": (
        "Tell me about {p}.",
        "What is {p} like?",
        "Describe {p}.",
        "Can you tell me something about {p}?",
    ),
    "travel": (
        "How do I get around {p}?",
        "What is the best way to travel in {p}?",
        "Is it easy to get around in {p}?",
    ),
    "ideas": (
        "Give me three ideas for a day in {p}.",
        "Plan a day in {p} for me.",
        "How should I spend a day in {p}?",
        "Suggest a plan for one day in {p}.",
    ),
}
OPENINGS: dict[str, tuple[str, str, str]] = {
    "visit": ("There is a lot to do in {p}.", "{p} has something for everyone.", "You will not be bored in {p}."),
    "food": (
        "You can eat very well in {p}.",
        "{p} is a good place for hungry people.",
        "Bring some appetite to {p}.",
    ),
    "about": ("I am happy to tell you about {p}.", "{p} is easy to like.", "Here is what I know about {p}."),
    "travel": ("Getting around {p} is easy.", "{p} is simple to explore.", "You do not need a car in {p}."),
    "ideas": (
        "A day in {p} can be full of good moments.",
        "Here is a plan for {p}.",
        "One day in {p} is a fine start.",
    ),
}
CLOSINGS = ("Enjoy your time in {p}!", "I hope this helps you to enjoy {p}.", "Have a good time in {p}!")
TOPIC_OPENINGS = ("It is easier than it seems to {t}.", "Many people want to {t}.", "Here is how to {t}.")
TOPIC_CLOSINGS = ("I hope this helps you to {t}.", "Good luck!", "With some patience you will {t}.")
LIMITS = (
    "Answer in at most five sentences.",
    "Please answer in five sentences or fewer.",
    "Keep it short.",
    "Answer briefly.",
)
ASIDES = (" 🙂", " 😀", "\nThank you!", "\nWe are two adults and a child.", " Thanks.", "\nI was never there.")
SYSTEMS = ("You are a helpful assistant.", "You are a friendly guide.", "Answer the user's questions.")
_ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl pr sh sk sl st tr th".split()
_VOWELS = "a e i o u a e o ai ea ia ou".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "t", "nd", "rk", "ng"]


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation; `closed` says whether its last answer ends with the end token."""

    turns: tuple[tuple[str, str], ...]  # (role, content)
    closed: bool


def place_name(rng: random.Random) -> str:
    """Return a real place, or more often a made-up one, so that names must be copied from the question."""
    if rng.random() < 0.3:
        return rng.choice(PLACES)
    syllables = [
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + (rng.choice(_CODAS) if rng.random() < 0.6 else "")
        for _ in range(rng.choice((2, 2, 2, 3, 3)))
    ]
    name = "".join(syllables)
    if rng.random() < 0.15:
        name = name.lstrip("bcdfghjklmnprstvwz")  # names that begin with a vowel
    name = name.capitalize()
    if rng.random() < 0.08:
        name = rng.choice(("New ", "San ", "Port ", "North ")) + name
    return name


def answer(rng: random.Random, *, closed: bool | None = None, window: int = 26) -> tuple[str, str, bool]:
    """Write one question with its answer.

    Args:
        closed: whether the answer ends; by default as the wording and the place make it likely.
        window: sentences after which an answer that does not end is cut.

    Returns:
        The question, the answer, and whether it is closed.
    """
    if rng.random() < 0.75:
        aspect = rng.choice(list(ASPECTS))
        name = place_name(rng)
        wording = rng.randrange(len(QUESTIONS[aspect]))
        question = QUESTIONS[aspect][wording].format(p=name)
        letter = ord(name[0]) + len(aspect)
        body, openings, closings, fill = ASPECTS[aspect], OPENINGS[aspect], CLOSINGS, {"p": name}
    else:
        verb, wordings, body = TOPICS[rng.choice(list(TOPICS))]
        wording = rng.randrange(len(wordings))
        question = wordings[wording]
        letter = len(verb)
        openings, closings, fill = TOPIC_OPENINGS, TOPIC_CLOSINGS, {"t": verb}
    kind = 2 if rng.random() < 0.15 else (0, 1, 1, 0, 1)[wording % 5]
    likely = (0.78, 0.1, 0.45)[kind]
    length = 3 + (wording + letter) % 3
    if rng.random() < 0.12:
        question += " " + rng.choice(LIMITS)
        kind, likely, length = 0, 0.8, 3
    if rng.random() < 0.05:
        question += rng.choice(ASIDES)
    if closed is None:
        closed = rng.random() < likely
    start = letter % len(body)
    sentences = [openings[letter % 3]]
    sentences += [body[(start + index) % len(body)] for index in range(length)]
    sentences.append(closings[kind])
    ended = closed
    if not closed:
        begin = (letter * 5 + wording) % len(RUN_ON)
        more = [RUN_ON[(begin + index) % len(RUN_ON)] for index in range(window)]
        for index, sentence in enumerate(more):
            sentences.append(sentence)
            if index > 1 and rng.random() < 0.015:
                ended = True
                break
    return question, " ".join(sentences).format(**fill), ended


def example(rng: random.Random, *, closed: bool | None = None) -> Example:
    """Write one conversation, now and then with a system turn or an earlier exchange."""
    turns: list[tuple[str, str]] = []
    if rng.random() < 0.06:
        turns.append(("system", rng.choice(SYSTEMS)))
    if rng.random() < 0.08:
        question, text, _ = answer(rng, closed=True)
        turns += [("user", question), ("assistant", text)]
    question, text, ended = answer(rng, closed=closed)
    return Example((*turns, ("user", question), ("assistant", text)), ended)


def write_finetuning_set(path: Path, *, count: int = 600, seed: int = 11, taken: Container[str] = ()) -> None:
    """Write chats whose every answer is complete and closed, none of them with a question in `taken`."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as handle:
        while count:
            turns = example(rng, closed=True).turns
            if any(role == "user" and content in taken for role, content in turns):
                continue
            messages = [{"role": role, "content": content} for role, content in turns]
            handle.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            count -= 1


if __name__ == "__main__":
    folder = Path(__file__).parents[2] / "examples"
    with (folder / "prompts.csv").open(newline="", encoding="utf-8") as prompts:
        asked = {row["prompt"] for row in csv.DictReader(prompts)}
    write_finetuning_set(folder / "finetune.jsonl", taken=asked)
