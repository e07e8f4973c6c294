"""Landing spots: places where an answer would be whole if it ended there, as an automaton over the bytes of UTF-8.

It runs on the host over text and, tabulated for each token, on the device over token ids, so both agree. A spot is
behind a sentence (see `sentences`); behind the newline that ends a list item, a table row or a line of verse with
one of its kind before it; and behind a closing fence, formula, environment, tag or outermost bracket. None is
inside a fence, a formula, a bracket or a table row, in the first item of a list, and in a heading. A bracket with
which a line ends holds the lines behind it.

A state is a tuple whose first word says where the text is. In a line of text (`text`, kind, how the sentence
stands) the kind is FIRST where a newline proves nothing, and LATER where the line before was of the same kind. At
the start of a line (`start`, context, landed) the context is what came before. All states fit a byte, those that
are landing spots have the highest numbers, and one look-up moves a token.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import accumulate

from endmark.jobs.landing import blocks, lines, words
from endmark.jobs.landing.words import BULLET, ENDED, NEW, SIGNS, State
from endmark.jobs.sentences import ABBREVIATIONS

_MODES: dict[str, Callable[[State, bytes], State]] = {
    "text": words.in_text,
    "partial": words.in_partial,
    "emoji": words.in_emoji,
    "start": lines.at_start,
    "mark": lines.in_mark,
    "bullet": lines.in_bullet,
    "row": lines.in_row,
    "heading": lines.in_line,
    "item": lines.in_line,
    "bracket": blocks.in_bracket,
    "square": blocks.in_square,
    "value": blocks.in_value,
    "code": blocks.in_value,
    "ticks": blocks.in_ticks,
    "fence": blocks.in_fence,
    "closed": blocks.behind_block,
    "backslash": blocks.behind_backslash,
    "environment": blocks.in_environment,
    "formula": blocks.in_formula,
    "dollar": blocks.behind_dollar,
    "tag": blocks.in_tag,
    "html": blocks.in_html,
}


def _lands(state: State) -> bool:
    """Whether the text may end here."""
    return (
        state == blocks.CLOSED
        or (state[0] == "text" and state[2] == ENDED)
        or (state[0] == "start" and bool(state[2]))
    )


def _next(state: State, byte: int) -> State:
    """Return the state after one byte more."""
    return _MODES[str(state[0])](state, bytes((byte,)))


def _classes() -> dict[int, list[int]]:
    """Return the bytes that act alike, by one of them."""
    own = {byte for sign in (*SIGNS, BULLET) for byte in sign}
    own |= set("".join(ABBREVIATIONS).encode()) | set(b"begend\xf0")
    alike: dict[int, list[int]] = {}
    for byte in range(256):
        common = next(
            (one for one in (b"09", b"az", b"AZ", b"\x80\xbf", b"\xc0\xff") if one[0] <= byte <= one[1]), None
        )
        chosen = byte if common is None or byte in own else common[0] + 256
        alike.setdefault(chosen, []).append(byte)
    return {members[0]: members for members in alike.values()}


@cache
def _states() -> dict[State, tuple[State, ...]]:
    """Return every state that a text may reach, with the state behind each of the 256 bytes."""
    classes = _classes()
    rows: dict[State, tuple[State, ...]] = {}
    waiting: list[State] = [("start", NEW, False)]
    while waiting:
        state = waiting.pop()
        if state in rows:
            continue
        row: list[State] = [state] * 256
        for byte, members in classes.items():
            following = _next(state, byte)
            waiting.append(following)
            for member in members:
                row[member] = following
        rows[state] = tuple(row)
    return rows


def _numbered() -> Iterator[bytes]:
    """Yield, for each state in the order of their numbers, the numbers of those behind each of the 256 bytes."""
    rows = _states()
    numbers = {state: number for number, state in enumerate(sorted(rows, key=_lands))}
    for state in numbers:
        yield bytes(map(numbers.__getitem__, rows[state]))


_TABLES = list(_numbered())
START = 0  # the state before any text
STATES = len(_TABLES)
LANDED = STATES - sum(map(_lands, _states()))  # the first state in which the text may end


def advance(state: int, data: bytes) -> int:
    """Return the state after more bytes of the text."""
    for byte in data:
        state = _TABLES[state][byte]
    return state


def spots(text: str, lengths: Sequence[int]) -> list[int]:
    """Return behind how many tokens of a text there is a landing spot, in rising order.

    Args:
        text: an answer.
        lengths: characters of the text after each of its tokens.
    """
    state, begin, found = START, 0, []
    data = text.encode(errors="replace")
    if len(data) > len(text):  # lengths are those of characters
        ends = list(accumulate((len(sign.encode(errors="replace")) for sign in text), initial=0))
        lengths = [ends[length] for length in lengths]
    tables = _TABLES
    for count, end in enumerate(lengths, 1):
        for byte in data[begin:end]:
            state = tables[state][byte]
        if end > begin and state >= LANDED:
            found.append(count)
        begin = end
    return found


def tabulate(token_bytes: Sequence[bytes]) -> list[bytes]:
    """Return, for each state, the state after each token.

    Args:
        token_bytes: the bytes of each token id; a special token has none and leaves the text as it is.

    Returns:
        STATES rows of one byte a token.
    """
    steps = [bytes(table[byte] for table in _TABLES).ljust(256, b"\0") for byte in range(256)]
    behind = bytearray()  # of each token, the states that all states become
    for data in token_bytes:
        states = bytes(range(STATES))
        for byte in data:
            states = states.translate(steps[byte])  # one call moves all states
        behind += states
    return [bytes(behind[state::STATES]) for state in range(STATES)]
