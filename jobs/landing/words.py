"""A line of text: how its sentence stands, over the bytes of words, signs and abbreviations."""

from endmark.jobs.sentences import ABBREVIATIONS, DIGITS, MARKUP, signs_after

State = tuple[object, ...]

FIRST, LATER = "first", "later"  # whether the line before is of the same kind, so that a newline ends an item
MID, _SHORT, WORD, ENDED = "mid", "short", "word", "ended"  # short: behind a letter or an abbreviation
NEW, PLAIN, LIST, GAP, ROWS, TABLE = "new", "plain", "list", "gap", "rows", "table"

SIGNS = {sign: {MID: a, WORD: b, ENDED: c} for sign, (a, b, c) in signs_after(MID, WORD, ENDED).items()}
BULLET = "•".encode()
PREFIXES = {sign[:size] for sign in (*SIGNS, BULLET) for size in range(1, len(sign))}
_ASTRAL = b"\xf0"  # emoji begin with it, and little else
_SPELLINGS = {word[:size] for word in ABBREVIATIONS for size in range(1, len(word))}


def in_text(state: State, code: bytes) -> State:
    """In a line of text: `("text", kind, sub)`."""
    _, kind, sub = state
    before = sub if sub in (MID, ENDED) else WORD
    if code == b"\n":
        whole = sub == ENDED or (kind == LATER and before == WORD)
        return ("start", PLAIN if kind == FIRST else LIST, whole)
    if code == b"\\":
        return ("backslash", kind, "")
    if code in b"([{":
        return ("bracket", kind, 1, "whole" if sub == ENDED else "new")
    if code == b".":
        return ("text", kind, ENDED if _may_end(sub) else MID)
    if code in MARKUP:
        return state
    if code in SIGNS:
        return ("text", kind, SIGNS[code][str(before)])
    if code == _ASTRAL and sub == ENDED:
        return ("emoji", kind, 3)
    if code in PREFIXES:
        return _partial(kind, code, before)
    return ("text", kind, _after_word(sub, code))


def in_emoji(state: State, code: bytes) -> State:
    """Inside an emoji behind a sentence, which leaves it ended: `("emoji", kind, bytes to come)`."""
    _, kind, size = state
    assert isinstance(size, int)
    if not b"\x80" <= code < b"\xc0":  # no UTF-8
        return in_text(("text", kind, MID), code)
    return ("emoji", kind, size - 1) if size > 1 else ("text", kind, ENDED)


def _after_word(sub: object, code: bytes) -> object:
    """Return how the sentence stands after a letter, a digit or a sign without a meaning of its own."""
    if code.isdigit():
        return min(sub + 1, DIGITS) if isinstance(sub, int) else 1
    if not code.isalpha():
        return WORD if code >= b"\x80" else MID
    letter = code.decode()
    spelled = letter if sub in (MID, ENDED) else f"{sub[1]}{letter}" if isinstance(sub, tuple) else ""
    if spelled in _SPELLINGS:
        return ("spelled", spelled)
    return _SHORT if len(spelled) == 1 or spelled in ABBREVIATIONS else WORD


def _may_end(sub: object) -> bool:
    """Whether a full stop ends a sentence here."""
    if isinstance(sub, tuple):
        return len(sub[1]) > 1 and sub[1] not in ABBREVIATIONS
    return sub in (WORD, ENDED, DIGITS)


def _partial(kind: object, prefix: bytes, before: object) -> State:
    """Return the state inside a character that begins like a sign."""
    meanings = {tuple(after.values()) for sign, after in SIGNS.items() if sign.startswith(prefix)}
    return ("partial", kind, prefix, WORD if meanings == {(ENDED,) * 3} else before)


def in_partial(state: State, code: bytes) -> State:
    """Inside a character: `("partial", kind, prefix, how the sentence stood)`."""
    _, kind, prefix, before = state
    assert isinstance(prefix, bytes)
    if not b"\x80" <= code < b"\xc0":  # no UTF-8
        return in_text(("text", kind, MID), code)
    whole = prefix + code
    if whole in SIGNS:
        return ("text", kind, SIGNS[whole][str(before)])
    return _partial(kind, whole, before) if whole in PREFIXES else ("text", kind, WORD)
