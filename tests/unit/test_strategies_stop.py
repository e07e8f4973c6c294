"""`stop` against `str.find` on the whole text, for random texts, stops and token splits."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endmark.jobs.errors import SpecError
from endmark.jobs.strategies import build_strategies
from endmark.jobs.strategies.stop import Stop
from endmark.jobs.vocabulary import FinishReason
from endmark.worker.engine.text import AnswerText, Vocabulary

pytestmark = pytest.mark.unit

VOCABULARY = Vocabulary([bytes((index,)) for index in range(256)])
# Few letters, so that stops overlap and contain each other; characters of one to four bytes.
ALPHABET = "ab#é—🙂🇫🇷\n"
texts = st.text(ALPHABET, max_size=40)
stops = st.lists(st.text(ALPHABET, min_size=1, max_size=6), min_size=1, max_size=4, unique=True)


def split(data, cuts):
    """Cut bytes into tokens at the places given, so that a token may hold half a character or many."""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(places)]


def feed(watcher, vocabulary, token_ids, *, last=True):
    """Show the tokens one after another, as the engine does; return the first ending and the tokens taken."""
    answer = AnswerText(vocabulary)
    for index, token_id in enumerate(token_ids):
        answer.append(token_id)
        ending = watcher.see(answer, last=last and index == len(token_ids) - 1)
        if ending is not None:
            return ending, answer
    return None, answer


def watch(stop_texts, pieces, *, last=True):
    vocabulary = Vocabulary(pieces)
    return feed(Stop({"text": tuple(stop_texts)}).watcher(), vocabulary, range(len(pieces)), last=last)


@settings(max_examples=400, deadline=None)
@given(texts, stops, st.lists(st.integers(0, 160), max_size=60))
def test_the_earliest_match_of_the_whole_text_however_it_is_split(text, stops, cuts):
    pieces = split(text.encode(), cuts)
    ending, answer = watch(stops, pieces)
    places = {stop: text.find(stop) for stop in stops if stop in text}
    if not places:
        assert ending is None
        return
    first = min(places.values())
    assert ending.verdict.finish_reason is FinishReason.STOP_SEQUENCE
    assert answer.text[: ending.text_length] == text[:first]
    assert places[ending.verdict.stop_sequence] == first
    # Of two stops at one place the shorter is complete first.
    assert len(ending.verdict.stop_sequence) == min(len(stop) for stop, at in places.items() if at == first)
    kept = b"".join(pieces[: ending.token_count])
    assert kept.decode(errors="ignore").startswith(text[:first])
    assert not first or len(b"".join(pieces[: ending.token_count - 1]).decode(errors="ignore")) < first


@settings(max_examples=200, deadline=None)
@given(texts, stops, st.lists(st.integers(0, 160), max_size=60))
def test_a_row_ends_no_later_than_the_match_needs(text, stops, cuts):
    """Waiting is for longer stops that began before; without any, the row ends with the token of the match."""
    pieces = split(text.encode(), cuts)
    if any(a != b and a in b for a in stops for b in stops):
        return
    ending, answer = watch(stops, pieces, last=False)
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert ending is None
        return
    # Overlapping stops ("ab", "ba") may keep it waiting for no longer than they are.
    taken = len(b"".join(pieces[: len(answer.token_ids) - 1]).decode(errors="ignore"))
    assert taken < min(ends) + max(map(len, stops))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_token_sequences(tokens, sequences):
    vocabulary = Vocabulary([bytes((97 + index,)) for index in range(4)])
    strategy = Stop({"tokens": tuple("-".join(map(str, sequence)) for sequence in sequences)})
    ending, _ = feed(strategy.watcher(), vocabulary, tokens)
    places = [
        at
        for sequence in sequences
        for at in range(len(tokens) - len(sequence) + 1)
        if tokens[at : at + len(sequence)] == sequence
    ]
    assert (ending.token_count if ending else None) == (min(places) if places else None)


def test_half_a_character_is_no_text_yet():
    """The two bytes of é come in two tokens: nothing to find after the first, the stop after the second."""
    ending, answer = watch(["é"], [b"caf", b"\xc3", b"\xa9"])
    assert (ending.text_length, ending.token_count, answer.text) == (3, 1, "café")


def test_a_stop_in_the_middle_of_a_token():
    ending, _ = watch(["\n\n"], [b"one.\n", b"\ntwo", b"three"])
    assert (ending.text_length, ending.token_count) == (4, 1)


def test_the_prompt_is_not_searched():
    """The watcher sees the answer alone, and what it sees begins at the answer's first token."""
    ending, _ = watch(["###"], [b"# one"])
    assert ending is None


@pytest.mark.parametrize("text", ["-5", "5--6", "5-", "5,6", "x", "", "1.5", "٣"])
def test_token_ids_are_checked(text):
    """`stop:tokens=-5` was once read as token 5, the sign taken for a dash."""
    with pytest.raises(SpecError, match="not a sequence of token ids"):
        Stop({"tokens": (text,)})


@pytest.mark.parametrize(("text", "ids"), [("13", (13,)), ("13-13", (13, 13)), (" 1  2 3 ", (1, 2, 3))])
def test_token_ids_are_read(text, ids):
    assert Stop({"tokens": (text,)}).sequences == (ids,)


def test_nothing_to_stop_at():
    with pytest.raises(SpecError, match="needs something to stop at"):
        build_strategies(["stop"])
    with pytest.raises(SpecError, match="`text` is empty"):
        build_strategies(['stop:text=""'])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=5), max_size=20), st.booleans())
def test_text_grows_to_what_decoding_at_once_gives(pieces, strip):
    vocabulary = Vocabulary(pieces, strip_first_space=strip)
    answer = AnswerText(vocabulary, range(len(pieces)))
    whole = vocabulary.text_of(range(len(pieces)))
    assert whole.startswith(answer.text)
    assert answer.lengths == sorted(answer.lengths)
    assert len(answer.lengths) == len(pieces)
    assert set(whole[len(answer.text) :]) <= {"\ufffd"}
