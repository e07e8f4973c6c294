"""Where a text ends, judged once for all: sentences, items, blocks, phrases, what is open, loops, nothing."""

import time
import timeit

import pytest

from endmark.jobs.endings import Ending, ending_of
from endmark.jobs.vocabulary import EosSource, FinishReason, Verdict

pytestmark = pytest.mark.unit

CASES = [
    ("Take the tram.", "sentence"),
    ("So the answer is 5.", "sentence"),
    ("He said “yes.”", "sentence"),
    ("Great day! 😀🎉", "sentence"),
    ("It is known.[1]", "sentence"),
    ("It is **free**.", "sentence"),
    ("Have a look at St.", "open"),
    ("- apples\n- pears\n- plums", "item"),
    ("1. Mix.\n2. Bake for an hour\n3.", "open"),
    ("- apples\n- pears\n- ", "open"),
    ("| a | b |\n|---|---|\n| 1 | 2 |", "item"),
    ("| a | b |\n|---|---|\n| 1 | 2", "open"),
    ("| a | b |\n|---|---|", "open"),
    ("| a | b |", "open"),
    ("---", "open"),
    ("All of it is said.\n---", "item"),
    ("Here:\n```python\nx = 1\n```", "block"),
    ("Here:\n```python\nx = 1.", "open"),
    ("Here:\n```python\n\n```", "open"),  # a block in which nothing stood was whole
    ("Here:\n```\n```\nThat is all.", "sentence"),
    ("```\nx\n```\nDone.", "sentence"),
    ('```json\n{\n"a": [1, 2)\n\n```\nThis is a JSON object.', "sentence"),
    ('{"a": [1, 2], "b": {"c": 3}}', "block"),
    ('{"a": [1, 2], "b": {"c": 3}', "open"),
    ("\\begin{align}\nx&=1\n\\end{align}", "block"),
    ("\\begin{align}\nx&=1", "open"),
    ("$$x=1$$", "block"),
    ("for f in *.txt; do\n  mv $f $f.md\ndone", "block"),
    ("for f in *.txt; do\n  if [ -f $f ]; then\n    mv $f $f.md\n  fi", "open"),  # passed for lines of verse
    ("if true; then\n  ls\nelif false; then\n  df\nfi", "block"),
    ("while true; do\n  ls\ndone\nThat runs for ever.", "sentence"),
    ("<table>\n<tr><td>1</td></tr>\n</table>", "block"),
    ("<table>\n<tr><td>1</td></tr>", "open"),
    ('The output is `{\n"a": 1\n}`, which is what you expect.', "sentence"),
    ('She read aloud: "The sea is blue,\nthe sky is grey" and smiled.', "sentence"),
    ("Both are `a`.\n\nThe key\n`b, which is.", "open"),
    ("It is 5' 11\" tall. Take it home.", "sentence"),
    ('The base form is "tu" (tu"). It says "here" (to the left).', "sentence"),
    ('She said "come" and then "I will go. Then I sleep.', "open"),
    ("1. Breakfast\n\n- eggs\n- tea\n\n2. Dinner", "open"),
    ("1. Mix the flour\n2. Bake for an hour", "item"),
    ("1. Breakfast\n- eggs\n2. Dinner\n- fish\n- rice", "item"),
    ("Paris", "phrase"),
    ("The Great Gatsby", "phrase"),
    ("A Dog Found Its Way Home: How Two Years and Three Hundred Miles Ended at the Right Door (BEST)", "phrase"),
    ("Astronomer (a scientist who studies stars, planets and all else that stands in the sky at night)", "phrase"),
    (
        "Albania, Indonesia, Malaysia, Peru, Ghana, United States, Mongolia, Sri Lanka, New Zealand, Chad, Mali",
        "phrase",
    ),
    ("42", "phrase"),
    ("I went to the", "open"),
    ("First,", "open"),
    ("He (a man. ", "open"),
    ('She said: "I will come. ', "open"),
    ("", "empty"),
    (" \n", "empty"),
    ("Best regards,\n[Your Name]", "phrase"),
    ("Name: Brazil\nCapital: Brasilia\nLanguage: Portuguese", "item"),
    ("The sea is blue\nThe sky is too\nI think of you", "item"),
    ("行きましょう。」", "sentence"),
    ("यह अच्छा है।", "sentence"),
    ("هل هذا جيد؟", "sentence"),
    ("Title\n\n## Methods", "open"),
    ("<p>Hello</p>", "block"),
    ("the area is $x = 5$.", "sentence"),
    ("The cat sat on the mat and looked at the birds that were singing in the tree", "open"),
    ("La " * 100, "loop"),
    ("function f() {\n  return 1;\n}", "block"),
    ("function f() {\n  return 1;", "open"),
    ("CREATE TABLE books (\n  id INT,\n  title TEXT (80)\n", "open"),
    ("CREATE TABLE books (\n  id INT,\n  title TEXT (80)\n);", "block"),
    ('def rename(path):\n    data = open("a.txt").read()\n    with tempfile.', "open"),
    ('def rename(path):\n    data = open("a.txt").read()\n    # It is read whole.', "sentence"),
    ("SELECT name, SUM(total)\nFROM orders\nGROUP BY name\nHAVING COUNT(*) > 3;", "item"),
    ("SELECT name\nFROM orders\nWHERE\n", "open"),
    ("INSERT INTO orders\n(name, total)\nVALUES\n", "open"),
    ("const a = 5;", "item"),
    ("[10:30] raj: done\n[10:31] li: shipped\n[10:40]", "open"),
    ("[1, 2, 3]", "block"),
    ('<?xml version="1.0"?>\n<?xml-stylesheet?', "open"),
    ("The Receiving Party shall\n(a) keep it;\n(b) return it (as its own);", "open"),
    ("It starts at 11:45 a.m.", "sentence"),
    ("1. Mix\n\n    Stir it well (as before).\n    It must be smooth.", "sentence"),
    ("INSERT INTO books\n(\n  id,\n  title", "open"),
    ("Two things (\na) bread\nb) milk\n) and all is done.", "sentence"),
    ("🎉🎂🎈", "phrase"),
    ("I love 3 < 4 and a", "open"),
    ("x = [1, 2, 3]", "phrase"),
    ("Wait...", "sentence"),
    ("A) Rome\nB) Paris\nC) Lima\nAnswer: B", "phrase"),
    ("See vitamin C.", "sentence"),
    ("Sold by Sims Inc.", "sentence"),
    ("He works e.g.", "open"),
    ("**Total: 45**", "phrase"),
    ("- **Rome**: old\n- **Paris**: big\n", "item"),
]


@pytest.mark.parametrize(("text", "ending"), CASES)
def test_where_a_text_ends(text, ending):
    assert ending_of(text) == ending


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("- apples\n- pears\n- plu", Ending.OPEN),
        ("- apples\n- pears\n- plums\n", Ending.ITEM),
        ("It costs 5.", Ending.OPEN),
        ("It opens at 9 a.m.", Ending.OPEN),
        ("const a = 5;", Ending.OPEN),
        ("It opened in Rome.", Ending.SENTENCE),
        ("The Great", Ending.OPEN),
        ("| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n| 4 | 5 |", Ending.OPEN),
        ("| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n| 4 | 5 | 6 |", Ending.ITEM),
        ("Here:\n```\nx\n```", Ending.BLOCK),
    ],
)
def test_what_was_cut_is_whole_only_where_that_is_sure(text, ending):
    """The last line of an answer that the budget cut may lack its end, though it reads like the ones before."""
    assert ending_of(text, cut=True) is ending


def test_complete_has_one_meaning():
    natural = Verdict(FinishReason.EOS, EosSource.NATURAL)
    boosted = Verdict(FinishReason.EOS, EosSource.BOOSTED)
    stopped = Verdict(FinishReason.STOP_SEQUENCE, stop_sequence="END")
    cut, failed = Verdict(FinishReason.LENGTH), Verdict(FinishReason.ERROR, error="x")
    for ending in (Ending.SENTENCE, Ending.ITEM, Ending.BLOCK):
        assert all(ending.is_complete(verdict.end) for verdict in (natural, boosted, stopped, cut))
        assert not ending.is_complete(failed.end)
    assert [Ending.PHRASE.is_complete(item.end) for item in (natural, stopped, boosted, cut)] == [
        True,
        True,
        False,
        False,
    ]
    for ending in (Ending.OPEN, Ending.LOOP, Ending.EMPTY):
        assert not ending.is_complete(natural.end)


def test_a_verdict_is_cheap():
    """Under 50 µs on an idle core; the limit here only catches another order of growth."""
    words = "the boat went out to sea and came home with fish for all who lived near its harbour in town".split()
    text = "".join(
        f"{words[n * 7 % 19].title()} {words[n * n % 19]} {n:x}{words[n * 3 % 19]} it. " for n in range(90)
    )
    assert min(timeit.repeat(lambda: ending_of(text), number=20, repeat=5, timer=time.process_time)) / 20 < 0.005
