"""Loops, exact and near: a labelled set of answers, and what is kept of a loop.

`loops/real.jsonl` holds answers of SmolLM2-135M-Instruct to `examples/everyday.csv`, at temperature 0 and 0.7 and
with 256 tokens, read and labelled by eye; the ends of long loops only, and without those whose reading was not
clear. `loops/written.jsonl` holds kinds that the model did not make. A third, `held_out`, was kept aside while the
rules were made; two mistakes in it were then used once. `loops/later.jsonl` was drawn and read after that, from
other runs and without what is a loop to the letter; nothing was changed for it. `loops/disputed.jsonl` holds those
of 6,209 answers over which the judge of `benchmarks/second_judge.py` said otherwise, and whose reading was clear.
`real` t0/list-08, of which five items are a loop and a closing sentence follows, was labelled as none at first.
"""

import json
import random
from pathlib import Path

import pytest

from endmark.jobs.endings.loops import loop_near_end, loop_of

pytestmark = pytest.mark.unit


def _read(name):
    return [json.loads(line) for line in (Path(__file__).parent / f"loops/{name}.jsonl").read_text().splitlines()]


SET = [case for name in ("real", "written", "later") for case in _read(name)]


def scores(cases):
    """Return recall and precision."""
    found = [(loop_near_end(case["text"]) is not None, case["loop"]) for case in cases]
    hits = sum(says and is_loop for says, is_loop in found)
    return hits / sum(is_loop for _, is_loop in found), hits / sum(says for says, _ in found)


def test_the_labelled_answers():
    assert len(SET) >= 300
    recall, precision = scores(SET)
    assert recall >= 0.97
    assert precision >= 0.99


def test_those_that_were_kept_aside():
    recall, precision = scores([case for case in SET if case["held_out"]])
    assert recall >= 0.96
    assert precision >= 0.98


def test_those_over_which_another_judge_disagreed():
    """None is called a loop by mistake; loops with other lines between their copies are still missed."""
    missed = [
        case["id"] for case in _read("disputed") if (loop_near_end(case["text"]) is not None) != case["loop"]
    ]
    assert len(missed) <= 4
    assert all(case["loop"] for case in _read("disputed") if case["id"] in missed)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Go on: " + "Step 1: Add the flour and stir. " * 9, "Go on: Step 1: Add the flour and stir."),
        ("So: " + "🎉🎈" * 40, "So: 🎉🎈"),
        (
            "".join(f"Step {n}: Add the flour and stir well.\n" for n in range(1, 16)),
            "Step 1: Add the flour and stir well.",
        ),
    ],
)
def test_what_is_kept_ends_with_the_first_copy(text, kept):
    assert text[: loop_of(text).kept].rstrip() == kept


@pytest.mark.parametrize(
    "text",
    [f"1 {'ab' * 900} {'cd' * 900}\n" * 8 + "7\n", "", "   ", "\x00" * 300, "\ud800" * 300, "a", "\n\n", "-" * 60],
)
def test_odd_texts_are_judged_without_error(text):
    loop_of(text)


def test_two_copies_or_less_than_the_span_are_no_loop():
    sentence = "The boats came home at noon with nets full of silver, and the people sang. "
    assert loop_of(sentence * 2) is None
    assert loop_of("Ha! " * 12) is None


@pytest.mark.parametrize(
    "text",
    [
        "To make a simple chocolate cake without eggs, you'll need a microwave and a microwave. \n\n"
        + "To make a chocolate cake without eggs, you'll need a microwave and a microwave. \n\n" * 2,
        "The plan for a food truck can be broken down into several key components, including the business plan, "
        "marketing, operations, finances, and operations.\n\n"
        + "The business plan for a food truck involves several key components, including the business plan, "
        "marketing, operations, finances, and operations. " * 2,
    ],
)
def test_three_copies_are_a_loop_though_the_first_begins_in_other_words(text):
    """Answers of SmolLM2 that were complete: what stands in the first copy alone was taken off its length."""
    assert loop_of(text.rstrip()) is not None


@pytest.mark.parametrize(("words", "is_loop"), [(107, False), (108, True)])
def test_a_loop_spans_its_copies_whatever_stands_before_it(words, is_loop):
    """2.7 copies of 40 words are enough, and a word less is not, however long the answer was before."""
    begin = "When spring came the old man mended each of his nets, painted both boats green and waited. "
    copy = (
        "the quick brown fox jumps over this lazy dog while seven grey geese fly south above our red roof and "
        "then no small child in town had seen so many birds at once since that cold winter when rivers froze"
    ).split()
    assert len(copy) == 40
    assert (loop_of(begin + " ".join((copy * 3)[:words])) is not None) == is_loop


def test_any_text_is_judged():
    rng = random.Random(3)
    signs = "aAbé猫。\n ,.1🎉|-"
    for _ in range(300):
        text = "".join(rng.choice(signs) for _ in range(rng.randrange(60))) * rng.randrange(1, 9)
        loop = loop_of(text)
        assert loop is None or 0 <= loop.start <= loop.kept <= len(text)


def test_a_list_that_says_one_key_again_and_again_is_a_loop_whatever_its_figures():
    """`Cooking utensils: 7`, with another figure in each line, was taken for a table of data."""
    figures = [4, 7, 9, 8, 30, 5, 17, 6, 12, 3, 21, 40, 2, 11, 19, 27]
    keys = ["Cooking utensils", "Cooking utensils", "Cooking supplies"]
    assert loop_of("".join(f"{n}. {keys[n % 3]}: {figure}\n" for n, figure in enumerate(figures, 1))) is not None
    towns = "Rome Paris Lima Oslo Cairo Delhi Quito Accra Dakar Tunis Sofia Minsk Riga Bern Kyiv Doha".split()
    named = zip(towns, figures, strict=True)
    assert loop_of("".join(f'* "{figure * 37}" matches a decimal digit\n' for figure in figures)) is not None
    assert loop_of("".join(f"{town} in degrees Celsius: {figure}\n" for town, figure in named)) is None


def test_rows_of_a_table_with_nothing_in_them_are_a_loop_however_wide():
    head = "| Country | Capital | Money |\n|---|---|---|\n| France | Paris | euro |\n"
    rows = [f"|{' ' * (4 + n * 7 % 5)}|{' ' * (6 + n * 3 % 4)}|{' ' * (5 + n % 3)}|\n" for n in range(16)]
    assert loop_of(head + "".join(rows)) is not None
    assert loop_of(head) is None


@pytest.mark.parametrize(
    "sentence",
    ["أين أقرب محطة قطار؟", "Почему трава зелёная?", "यह अच्छा नहीं है।", "🎉🎈🎂🎁", "我今天想去公园散步，你呢？"],
)
def test_other_scripts_need_no_more_copies_than_latin(sentence):
    """Lengths were those of Latin letters: four copies of an Arabic question are 90 tokens, and were no loop."""
    assert loop_of("Well: " + f"{sentence}\n\n" * (4 if len(sentence) > 4 else 12)) is not None
    assert loop_of(f"{sentence}\n\n" * 2) is None


def test_loops_of_signs_alone_count_a_token_a_sign():
    """Empty fences, one behind the other, were too short for a loop as their text was counted."""
    assert loop_of("Use this code:\n" + "```\n" * 34) is not None


@pytest.mark.parametrize(
    "text",
    [
        "Wir können gehen, " + "wir können, " * 14,
        "E-M-" + "B-Y-" * 22,
        "So: " + "मैंक्कर " * 6,
        "".join(f"{n}. 每天？\n" for n in range(5, 14)),
        "👑💡\n👏💏\n" + "".join("👌💡" * count + "\n" for count in (1, 1, 2, 3, 2, 4, 3)),
    ],
)
def test_loops_of_what_takes_many_tokens_for_its_length(text):
    """Their length was told as that of English words: such loops of 60 tokens and more were called whole."""
    assert loop_of(text.rstrip()) is not None


def test_a_long_line_that_comes_again_with_another_between_is_a_loop():
    line = "The new album is made of new sounds and songs that we have captured in a way of our own."
    between = "This is the first song that we are making."
    assert loop_of(f"{line}\n\n{line}\n\n{between}\n\n{line}") is not None
    assert loop_of(f"{line}\n\n{between}\n\n{line}\n\nThat is all.\n\n{line}") is None
    assert loop_of(f"Row, row\n{between}\nRow, row\nRow, row") is None


def test_empty_rows_are_a_loop_with_any_number_of_cells():
    """Each row of an endless table had more blanks and bars than the one before, and it passed for data."""
    widths = random.Random(1)
    rows = "".join(
        "|" + "".join(" " * widths.randrange(2, 14) + "|" for _ in range(1 + n % 7)) + "\n" for n in range(14)
    )
    assert loop_of(f"| Country | Capital |\n{rows}") is not None


LONG = "This can be achieved by going to bed at one hour, with no screen before it and a quiet evening."


def test_a_long_sentence_that_comes_a_third_time_at_the_end_is_a_loop_whatever_stands_between():
    """An answer about sleep ended naturally behind it and passed for whole; a second judge called it a loop."""
    said = [f"Aiming for {hours} hours of sleep is wise. {LONG}" for hours in (7, 12, 4)]
    between = "Another way is a cool room. This includes bedding. A dark room helps too."
    assert loop_of(f"{said[0]}\n\n{between}\n\n{said[1]}\n\n{said[2]}") is not None
    assert loop_of(f"{said[0]}\n\n{between}\n\n{said[1]}") is None
    inside = "I am glad that you ask, and I know that it helps: " + LONG
    assert loop_of(f"{said[0]}\n\n{between}\n\n{inside}\n\n{said[2]}") is not None
    refrain = "And we sailed away to the west with the wind and the gulls above us all,"
    verses = ("The morning was grey", "At noon we could see", "By night we were there")
    assert loop_of("\n\n".join(f"{verse}\nand none of us spoke,\n{refrain}" for verse in verses)) is None


def test_items_with_one_figure_said_twice_are_a_loop():
    """`12. 70 minutes: 70 minutes` has one figure, and was counted as two that tell something."""
    rows = "".join(f"{n}. {10 * n} minutes: {10 * n} minutes\n" for n in range(1, 15))
    assert loop_of(f"The minutes of the meeting are:\n\n{rows}") is not None
    sums = "".join(f"{n}. {n} times {n}: {n * n}\n" for n in range(3, 17))
    assert loop_of(f"The squares are:\n\n{sums}") is None


@pytest.mark.parametrize(
    "coda", ["3. A snail is at the bottom of a well.", "So that is the proof.", "Ask me something else."]
)
def test_a_loop_with_little_behind_it_is_one(coda):
    """The row had found out of its loop for one sentence, and ended: the verdict saw no loop."""
    loop = "The doors are the same as a mirror on the wall of a room. "
    tale = "A king had three sons, and sent them out to find the water of life. The eldest rode off at dawn, "
    tale += "proud of his horse; he met a dwarf, who asked where he went in such haste, and got no answer."
    assert loop_of(f"{loop * 12}\n\n{tale}") is None
    assert loop_near_end(f"{loop * 12}\n\n{coda}") is not None
    assert loop_near_end(f"{loop * 3}\n\n{coda}") is None
    assert loop_near_end(f"{loop * 12}\n\n{coda} {tale}") is None
