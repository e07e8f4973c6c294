"""Landing spots: on the host over text, and on the device over a table of tokens, with one answer."""

import random

import pytest

from endmark.jobs.landing import LANDED, START, STATES, advance, spots, tabulate
from tests.unit.test_sentences import ENDS, GOES_ON

pytestmark = pytest.mark.unit


def lands(text):
    return advance(START, text.encode()) >= LANDED


SPOTS = [
    "- apples\n- pears\n",
    "• apples\n• pears\n",
    "1. Mix\n2. Bake for 1.5 hours\n",
    "1) Mix\n\n2) Bake\n",
    "List:\n\n* one\n* two\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "The sea\nis blue\n",
    "Best regards,\n[Your Name]\n",
    "Capital: Rome\nMoney: euro\n",
    "```python\nx = 1.\n```",
    "```\nx\n```\n\n",
    '{"a": [1, {"b": "x."}]}',
    '[\n  {"a": 1},\n  {"a": 2}\n]',
    "\\[x = 1.\\]",
    "$$x = 1.$$",
    "\\begin{align}\nx.\n\\end{align}",
    "\\begin{a}\n\\begin{b}x.\\end{b}\n\\end{a}\n",
    "<table>\n  <tr>Hi.</tr>\n</table>",
    "What a day! 😀🎉 ",
    "He left (as he had said). ",
    "(He left.)",
    "Hello!\n\n",
    "See it (e.g. here). Then go.",
    "CREATE TABLE books (\n  id INT,\n  title TEXT (80)\n);",
    "function f() {\n  if (x) {\n    g(1);\n  }\n}",
    "app.get('/', (request, answer) => { \n  answer.send('Hi');\n});\n",
    "ส่วนที่หนึ่ง\nส่วนที่สอง\n",
    "- 苹果\n- 香蕉\n",
]
NONE = [
    "- apples\n",
    "- apples\n- pears",
    "- It is red. It is ",
    "1. Mix\n2. Bake:\n",
    "1. Mix\n2. Bake,\n",
    "1. Mix.\n2. ",
    "1.\n",
    "12.\n\n",
    "1. Mix.\n2.\n",
    "-\n",
    "1)\n",
    "* \n",
    "| a | b |\n|---|---|\n",
    "| a | b |\n|---|---|\n| 1. | 2. ",
    "```python\nx = 1.\n",
    "Text.\n\n```\nx.\n\n",
    '{"a": "Hi. ',
    '[\n  {"a": "x."},\n',
    "(He said. ",
    "# Title\n\n",
    "**Title**\n\n",
    "\\[x = 1. ",
    "$$x = 1. ",
    "\\begin{a}\n\\begin{b}x.\\end{b}\nWell. ",
    "<table>\n  <tr>Hi.</tr>\n",
    "[Your Name]\n",
    "[10:30] raj: done\n[10:31]",
    "<?xml?",
    "---\n",
    "CREATE TABLE books (\n  id INT,\n  title TEXT (80)\n",
    "function f() {\n  if (x) {\n    g(1);\n  }\n",
    "app.get('/', (request, answer) => {\n  answer.send('Hi');\n}",
]


@pytest.mark.parametrize("text", [*SPOTS, *ENDS])
def test_here_an_answer_may_end(text):
    assert lands(text)


@pytest.mark.parametrize("text", [*NONE, *GOES_ON])
def test_here_it_may_not(text):
    assert not lands(text)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_brackets_are_counted_to_three(depth):
    assert lands("{" * depth + '"a": "x."' + "}" * depth)
    assert not lands("{" * depth + '"a": "x."' + "}" * (depth - 1))


def test_a_value_that_is_deeper_lands_where_its_outermost_bracket_closes_at_the_margin():
    text = '{\n "a": {"b": {"c": {"d": 1}}}\n}'
    assert lands(text)
    assert not any(lands(text[:size]) for size in range(len(text)))


def test_nothing_traps_the_automaton():
    """An unclosed bracket, quotation or formula in one line does not keep later paragraphs from landing."""
    for opening in (
        "(never closed",
        ":-( sad",
        "[1, 2",
        "a { b",
        "5 < 6",
        "costs $5",
        "`code",
        "\\alpha",
        "*bold",
        "( and",
    ):
        assert lands(f"Well, {opening} here\n\nThat is all.")


def test_the_table_over_tokens_says_what_the_text_says_wherever_tokens_are_cut():
    """Tokens may end in the middle of a character; a special token, without bytes, leaves the text as it is."""
    rng = random.Random(5)
    text = "".join(f"{part} Ask Prof. Li – “now” (é, 猫). \n" for part in (*ENDS, *GOES_ON, *SPOTS, *NONE))
    data = text.encode()
    for _ in range(20):
        cuts = sorted(rng.sample(range(len(data)), 90))
        tokens = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        tokens.insert(rng.randrange(len(tokens)), b"")
        table = tabulate(tokens)
        state, read = START, b""
        for token, piece in enumerate(tokens):
            state, read = table[state][token], read + piece
            assert state == advance(START, read)


def test_every_state_has_its_row_and_fits_the_devices_byte():
    """Bytes that are no UTF-8 too: a byte vocabulary can make any."""
    tokens = [bytes((byte,)) for byte in range(256)]
    table = tabulate(tokens)
    assert len(table) == STATES <= 256
    assert START < LANDED < STATES
    assert all(
        table[state][byte] == advance(state, tokens[byte]) for state in range(STATES) for byte in range(256)
    )
    assert max(map(max, table)) < STATES


def test_spots_are_told_by_tokens_and_only_where_a_token_ends():
    """A terminator in the middle of a token ends no answer there; a special token, without text, adds no spot."""
    assert spots("Grüße. Und. dann", [2, 6, 7, 14, 14, 16]) == [2, 3]
    assert spots("- 苹果\n- 香蕉\n- 西", [2, 5, 7, 10, 12, 13]) == [4]
    assert spots("nothing here", [7, 12]) == spots("", []) == []
