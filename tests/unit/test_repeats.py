"""What `whole` does not leave standing where it chooses the end itself: repetition that is less than a loop."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from endmark.jobs.endings.loops import loop_near_end
from endmark.jobs.endings.repeats import repeat_near_end
from endmark.jobs.strategies import build_strategies
from endmark.jobs.strategies.base import EndHere, TakeBack

pytestmark = pytest.mark.unit

TWICE = "It is a vital source of life across many countries. "
AGAIN = {
    "a sentence said twice": f"The Nile is long. {TWICE}It rises in Burundi. {TWICE}",
    "an item that comes again": "1. Plan your answers well before the day comes.\n2. Dress well for it.\n"
    "3. Plan your answers well before the day comes.\n",
    "a short line three times": "* Trade and money\n* Sport\n* Trade and money\n* Health\n* Trade and money\n",
    "eight words three times": "They said the delay in the schedule was due to a delay, and was due to a delay in "
    "the "
    "schedule and that was the delay in the schedule was due to a delay and so on; then the delay in the "
    "schedule was due to a delay by rail.",
    "hardly a new word": " ".join(
        ["a sonnet is a poem and the poem is a sonnet,"] * 2 + ["a poem is a sonnet"] * 9
    ),
    "rows that count": "| a | b |\n|---|---|\n" + "".join(f"| {n} | {n + 1} | {n + 2} |\n" for n in range(1, 9)),
    "rows that count, and a word about them": "So:\n\n"
    + "".join(f"|{n}| {n + 2} |\n" for n in range(1, 12))
    + "\nThis is a table of figures.",
    "six words four times": "“No” is now “Two”, which is the correct number of words. “Week” is now “Ten”, which "
    "is the correct number of words. “Lady” is now “Lord”, which is the correct number of letters. “Fool” is now "
    "“Jack”, which is the correct number of cards.",
    "a line of code five times": "It is so:\n\n```\nprint(sum_list())\n```\n" * 5,
    "a line three times at once": "Three of them by the lake.\n\n" * 3,
    "in a script without spaces": "天气很好。"
    "我们一起去公园散步吧，我们一起去公园散步吧，他说。我们一起去公园散步吧，好吗？",
}
LOOPS = (
    "hardly a new word",
    "rows that count",
    "a line of code five times",
    "in a script without spaces",
)  # to the verdict too
ONCE = {
    "prose": "The Nile is long. It rises in Burundi and Rwanda. It ends in a wide delta near Cairo.",
    "a refrain": "\n".join(
        f"{line}\nRow on, my boat, row on to the sea\n"
        for line in ("The morning is grey", "The noon is a bell", "The evening is mine")
    ),
    "code": "if err != nil {\n    return nil, err\n}\n" * 3 + "return out, nil",
    "rows of data": "".join(
        f"| {town} | {size} | {rain} |\n"
        for town, size, rain in (("Rome", 2873, 80), ("Lima", 9752, 1), ("Oslo", 693, 76))
    ),
    "code with an import that comes again": "import a\nx = load(1)\ny = 2\nx = load(1)\nz = 3\nx = load(1)\n",
    "a table of sums": "".join(f"7 x {n} = {7 * n}\n" for n in range(1, 12)),
    "squares": "\n".join(str(n * n) for n in range(4, 16)),
    "nothing": "",
}


@pytest.mark.parametrize("mark", ["* ", "3. "])
@pytest.mark.parametrize(("size", "twice"), [(39, False), (40, True)])
def test_how_long_an_item_is_of_which_a_copy_is_too_much(mark, size, twice):
    item = f"Plan to {'y' * (size - 8)}"
    text = f"{mark}{item}\n{mark}Bread of rye\n{mark}{item}\n"
    assert (repeat_near_end(text) is not None) is twice


@pytest.mark.parametrize(("size", "twice"), [(71, False), (72, True)])
def test_how_long_a_line_of_verse_is_of_which_a_copy_is_too_much(size, twice):
    line = f"Row on, {'o' * (size - 8)}"
    assert (repeat_near_end(f"{line}\nThe moon is up\n{line}\n") is not None) is twice


@pytest.mark.parametrize("kind", AGAIN)
def test_what_is_said_again(kind):
    """An outside judge called such answers loops, which the verdict rightly does not."""
    found = repeat_near_end(AGAIN[kind])
    assert found is not None
    assert 0 <= found.start < found.kept < len(AGAIN[kind])
    assert repeat_near_end(AGAIN[kind][: found.kept]) is None
    assert loop_near_end(AGAIN[kind]) is None or kind in LOOPS


@pytest.mark.parametrize("kind", ONCE)
def test_what_says_something_new(kind):
    assert repeat_near_end(ONCE[kind]) is None


def test_hardly_one_of_the_labelled_answers_that_are_no_loops_is_struck():
    """The bar is stricter than the verdict's, and still for few: those read by eye and labelled as no loops."""
    folder = Path(__file__).parent / "loops"
    cases = [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    sound = [case["text"] for case in cases if not case["loop"]]
    assert len(sound) > 150
    assert sum(repeat_near_end(text) is not None for text in sound) <= 0.25 * len(sound)


def answer(text, *, natural):
    """Return an answer of one token a word as a watcher is shown it, ended by EOS."""
    words = text.split(" ")
    lengths = [len(" ".join(words[: count + 1])) for count in range(len(words))]
    return SimpleNamespace(
        token_ids=list(range(len(words))), text=text, lengths=lengths, end_token_id=0, ended_naturally=natural
    )


def test_whole_takes_back_a_boosted_end_behind_a_sentence_said_twice():
    """The row goes on behind the first copy; the model's own first end is left alone, whatever it says again."""
    text = AGAIN["a sentence said twice"].rstrip()
    (whole,) = build_strategies(["whole"])
    found = whole.watcher().see(answer(text, natural=False), last=True)
    assert isinstance(found, TakeBack)
    assert text[: answer(text, natural=False).lengths[found.token_count - 1]].endswith("It rises in Burundi.")
    assert found.dry_multiplier > 0
    assert whole.watcher().see(answer(text, natural=True), last=True) is None


@pytest.mark.parametrize("natural", [False, True])
def test_once_it_was_taken_back_often_enough_it_ends_behind_the_first_copy(natural):
    text = AGAIN["a sentence said twice"].rstrip()
    (whole,) = build_strategies(["whole:rewinds=1,retakes=0"])
    taken = whole.watcher().see(answer(text, natural=False), last=True)
    assert isinstance(taken, TakeBack)
    found = taken.then.see(answer(text, natural=natural), last=True)
    assert isinstance(found, EndHere)
    assert found.verdict.truncated
    assert text[: found.text_length].endswith("It rises in Burundi.")
