"""`no-loops`: what is a loop, what is not, and how much of it is kept."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endmark.jobs.strategies import no_loops
from endmark.jobs.strategies.no_loops import NoLoops
from endmark.jobs.vocabulary import FinishReason
from endmark.worker.engine.text import AnswerText, Vocabulary

pytestmark = pytest.mark.unit

VOCABULARY = Vocabulary([chr(32 + index).encode() for index in range(94)] + [b"\n"])


def feed(token_ids, **parameters):
    watcher = NoLoops(parameters).watcher()
    answer = AnswerText(VOCABULARY)
    for token in token_ids:
        answer.append(token)
        ending = watcher.see(answer, last=False)
        if ending is not None:
            return ending, len(answer.token_ids)
    return None, len(answer.token_ids)


def letters(text):
    return [94 if char == "\n" else ord(char) - 32 for char in text]


def reference(tokens, times, span):
    """The first end of `times` copies that span `span` tokens, and the shortest period there, by brute force."""
    for end in range(1, len(tokens) + 1):
        for period in range(1, end):
            run = 0
            while run + period < end and tokens[end - 1 - run] == tokens[end - 1 - run - period]:
                run += 1
            if run >= (times - 1) * period and run + period >= span:
                return end, end - run
    return None


def test_an_ending_that_was_found_stays():
    """The engine may have computed further tokens before it is asked again: those would be another period's."""
    watcher, answer = NoLoops({"times": 3, "tokens": 16}).watcher(), AnswerText(VOCABULARY)
    found = []
    for token in [33, 34, 35, 36] * 8 + [40] * 80:
        answer.append(token)
        found.append(watcher.see(answer, last=False))
    first = next(ending for ending in found if ending is not None)
    assert first.token_count == 4
    assert all(ending is first for ending in found[found.index(first) :])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(33, 35), max_size=30),
    st.lists(st.integers(33, 35), min_size=1, max_size=9),
    st.integers(2, 4),
    st.integers(16, 24),
)
def test_against_brute_force(lead, loop, times, span):
    tokens = lead + loop * 25
    ending, taken = feed(tokens, times=times, tokens=span)
    assert (taken, ending.token_count) == reference(tokens, times, span)
    assert ending.text_length == ending.token_count
    assert ending.verdict.finish_reason is FinishReason.REPETITION


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 1), max_size=120), st.integers(2, 4))
def test_noise_against_brute_force(tokens, times):
    ending, taken = feed(tokens, times=times, tokens=16)
    expected = reference(tokens, times, 16)
    assert (None if ending is None else (taken, ending.token_count)) == expected


def test_the_first_copy_stays():
    loop = " The Louvre is a museum."
    ending, taken = feed(letters("In Paris:" + loop * 10))
    assert ending.text_length == len("In Paris:" + loop)
    assert taken == len("In Paris:") + 4 * len(loop)


def test_what_is_kept_ends_with_a_sentence():
    """The copies fit at any shift, and the first that fits began in the middle of the sentence before them.

    Cut right behind it, the answer ended in "Visit the Orsay", without the full stop that followed.
    """
    lead = "Visit the Louvre. It is a museum. "
    loop = "Visit the Orsay. It is a museum. "
    ending, _ = feed(letters(lead + loop * 9))
    assert (lead + loop)[: ending.text_length] == lead + "Visit the Orsay."


WORDS = "art history science train music boat toy war nature film design fashion glass tea".split()
ORDINARY = {
    "numbered list": "".join(f"{n}. Visit the {word} museum in town.\n" for n, word in enumerate(WORDS)),
    "table": "".join(f"| {city} | France | yes | no |\n" for city in WORDS),
    "refrain": "We all live in a yellow house, a yellow house, a yellow house. " * 3,
    "refrain with verses": "".join(
        f"{one} met {two} and lost its {three}. Row, row your boat gently down the stream. "
        for one, two, three in zip(WORDS, WORDS[5:], WORDS[9:], strict=False)
    ),
    "laughter": "He said: " + "ha " * 12 + "and left.",
    "rule": "Title " + "-" * 40 + " text",
    "counting": ", ".join(map(str, range(1, 200))),
    "verse": "to be or not to be, that is the question, to be or not to be " * 3,
}


@pytest.mark.parametrize("case", list(ORDINARY))
def test_ordinary_text_is_no_loop(case):
    ending, _ = feed(letters(ORDINARY[case]))
    assert ending is None


NEAR = {
    "counter": "".join(f"{n}. Visit the museum of art in town. " for n in range(1, 40)),
    "table that counts": "".join(f"| {n} | France | yes | no | yes | no |\n" for n in range(50)),
    "verses that count": "".join(
        f"Verse {n} tells a thing. Row, row, row your boat gently down the stream. " for n in range(12)
    ),
    "one word a round": "".join(f"I would really like to go to the {word} with you. " for word in WORDS),
}


@pytest.mark.parametrize("case", list(NEAR))
def test_a_loop_whose_rounds_differ_a_little_ends_too(case):
    """On a real model most loops count upwards or change a word, and only exact copies were seen.

    Three of these stood among the ordinary texts before.
    """
    ending, taken = feed(letters(NEAR[case]))
    assert ending.verdict.finish_reason is FinishReason.REPETITION
    assert ending.text_length < 120 < taken
    exact, _ = feed(letters(NEAR[case]), near=False)
    assert exact is None


@pytest.mark.parametrize(("span", "looks"), [(16, [64, 128, 192]), (100, [100, 164])])
def test_near_copies_are_looked_for_every_so_many_tokens(span, looks, monkeypatch):
    """Not before so many tokens could span the copies, and not at every token: a look reads the text."""
    seen = []
    monkeypatch.setattr(no_loops, "near_loop", lambda answer, *_: seen.append(len(answer.token_ids)))
    feed(random.Random(5).choices(range(94), k=200), tokens=span)
    assert seen == looks


def test_a_token_costs_as_little_late_as_early():
    """Following every period once made long rows slow; a token is one look-up and a comparison or two."""
    rng = random.Random(4)
    tokens = [rng.randrange(90) for _ in range(40_000)]
    watcher = NoLoops({"times": 4, "tokens": 64}).watcher()
    answer = AnswerText(VOCABULARY)
    took = []
    for begin in range(0, len(tokens), 10_000):
        start = time.process_time()
        for token in tokens[begin : begin + 10_000]:
            answer.append(token)
            assert watcher.see(answer, last=False) is None
        took.append(time.process_time() - start)
    assert len(watcher._runs) <= 4
    assert took[-1] < 20 * took[0] + 0.5


def test_the_tokens_of_an_earlier_attempt_count():
    loop = letters("round and round we go. ")
    answer = AnswerText(VOCABULARY, loop * 3)
    watcher = NoLoops().watcher()
    ending = None
    for token in loop:
        answer.append(token)
        ending = watcher.see(answer, last=False)
    assert ending.token_count == len(loop)
    assert watcher.see(answer, last=True) == ending
