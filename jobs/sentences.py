"""Where a sentence has just ended, as a small automaton over the bytes of UTF-8 text.

It runs on the host over text and, tabulated for each token, on the device over token ids, so both agree. A
sentence has ended after a terminator of any script, and still has after closing quotes, brackets and white
space behind it. A full stop ends none after a lone letter (an initial, `e.g.`), after one to three digits (list
numbers, decimals) and after an abbreviation that something always follows (`St. Mark`).
"""

from typing import TypeVar

State = TypeVar("State")
MID, LETTER, WORD, DIGIT, ENDED = range(5)

DIGITS = 4  # from this many in a row on, a number may end a sentence
_DIGITS = (DIGIT, 5, 6, 7)  # how many in a row: one, two, three, more
_SPELLED = 8  # from here on: what has been spelled of an abbreviation

TERMINATORS = "!?。！？．｡…‼⁇⁈⁉।॥؟۔։།።፧။។៕᠃᙮\u037e"
_SPACES = " \t\r\n\u3000\u00a0"
CLOSERS = "\"')]}%”’»›」』）】》"
_OPENERS = "“‘„«‹¿¡「『（【《–—"
MARKUP = b"*_`~"

# Not here, as an answer may well end with them: etc., No., Jr., Inc., and what is also a word in small letters.
ABBREVIATIONS = "Dr Fig Ft Mr Mrs Ms Mt Ph Prof Rev St approx ca cf vs".split()


def signs_after(mid: State, word: State, ended: State) -> dict[bytes, tuple[State, State, State]]:
    """Return for each sign the state behind it: after no word, after a word, after a sentence."""
    kinds = (
        (TERMINATORS, (ended, ended, ended)),
        (_SPACES, (mid, mid, ended)),
        (CLOSERS, (mid, word, ended)),
        (_OPENERS, (mid, mid, mid)),
    )
    return {sign.encode(): after for signs, after in kinds for sign in signs}


class _Automaton:
    """The states in the order of their numbers: the base, the spellings, the signs of which bytes are missing."""

    def __init__(self) -> None:
        after = signs_after(MID, WORD, ENDED)
        self._signs = {sign: dict(zip((MID, WORD, ENDED), to, strict=True)) for sign, to in after.items()}
        spellings = sorted({word[:size] for word in ABBREVIATIONS for size in range(1, len(word) + 1)})
        self._spelled = {text: _SPELLED + index for index, text in enumerate(spellings)}
        self._texts = {state: text for text, state in self._spelled.items()}
        prefixes = sorted({sign[:size] for sign in self._signs for size in range(1, len(sign))})
        self._partial: dict[tuple[bytes, int], int] = {}
        for prefix in prefixes:
            for before in (MID, WORD, ENDED):
                self._partial[prefix, before] = _SPELLED + len(spellings) + len(self._partial)

    def tables(self) -> list[bytes]:
        """Return, for each state, the state behind each of the 256 bytes."""
        whole = [
            bytes(self._from_whole(state, byte) for byte in range(256))
            for state in range(_SPELLED + len(self._spelled))
        ]
        fresh = whole[MID]
        inside = [
            fresh[:0x80] + bytes(self._inside(prefix, before, byte) for byte in range(0x80, 0xC0)) + fresh[0xC0:]
            for prefix, before in self._partial
        ]
        return whole + inside

    def _from_whole(self, state: int, byte: int) -> int:
        """Return the state after one byte from a state that is not inside a character."""
        code = bytes((byte,))
        before = state if state in (MID, ENDED) else WORD
        if byte == ord("."):
            return ENDED if self._may_end(state) else MID
        if byte in MARKUP:
            return state
        if code in self._signs:
            return self._signs[code][before]
        if (code, before) in self._partial:
            return self._partial[code, before]
        if code.isdigit():
            return _DIGITS[min(_DIGITS.index(state) + 1, 3)] if state in _DIGITS else DIGIT
        if code.isalpha():
            return self._after_letter(state, code.decode())
        return WORD if byte >= 0x80 else MID

    def _inside(self, prefix: bytes, before: int, byte: int) -> int:
        """Return the state after one byte more of a sign, or of a character that only begins like one."""
        code = prefix + bytes((byte,))
        if code in self._signs:
            return self._signs[code][before]
        return self._partial.get((code, before), WORD)

    def _after_letter(self, state: int, letter: str) -> int:
        """Return the state after a letter of ASCII."""
        if state in (MID, ENDED):
            return self._spelled.get(letter, LETTER)
        return self._spelled.get(self._texts.get(state, " ") + letter, WORD)

    def _may_end(self, state: int) -> bool:
        """Whether a full stop ends a sentence here."""
        text = self._texts.get(state)
        if text is not None:
            return len(text) > 1 and text not in ABBREVIATIONS
        return state in (WORD, ENDED, _DIGITS[3])


_TABLES = _Automaton().tables()


def advance(state: int, data: bytes) -> int:
    """Return the state after more bytes of the text."""
    for byte in data:
        state = _TABLES[state][byte]
    return state


def ends_sentence(text: str) -> bool:
    """Whether the text ends at the end of a sentence."""
    return advance(MID, text[-64:].encode(errors="replace")) == ENDED
