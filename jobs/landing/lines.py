"""The start of a line, and lines that are no plain text: items, rows of tables, headings."""

from endmark.jobs.landing.words import (
    BULLET,
    FIRST,
    GAP,
    LATER,
    LIST,
    MID,
    NEW,
    PLAIN,
    ROWS,
    TABLE,
    State,
    in_partial,
    in_text,
)

_STARTS = {NEW: FIRST, GAP: FIRST, ROWS: FIRST, TABLE: FIRST, PLAIN: LATER, LIST: LATER}


def at_start(state: State, code: bytes) -> State:
    """At the start of a line: `("start", context, landed)`; quotation marks and indents count for nothing."""
    _, context, landed = state
    listed = LIST if context in (LIST, GAP) else PLAIN
    if code in b" \t\r>":
        return state
    if code == b"\n":
        return ("start", GAP if context in (LIST, GAP) else NEW, landed)
    if code == b"|":
        return ("row", {ROWS: 1, TABLE: 2}.get(str(context), 0), False)
    if code in b"-*+" or code.isdigit():
        return ("mark", b"9" if code.isdigit() else code, listed, _STARTS[str(context)])
    if code == b"(":
        return ("bracket", _STARTS[str(context)], 1, "whole")
    if code == b"{":
        return ("value", 1)
    if code in _OPENINGS:
        return (*_OPENINGS[code], _STARTS[str(context)])
    if code == BULLET[:1]:
        return ("bullet", code, listed, _STARTS[str(context)])
    return ("heading",) if code == b"#" else in_text(("text", _STARTS[str(context)], MID), code)


_OPENINGS: dict[bytes, State] = {
    b"`": ("ticks", 1),
    b"$": ("dollar",),
    b"<": ("tag",),
    b"[": ("square",),
}


def _item(listed: object) -> State:
    """Return the state in an item: the first of its list, or a later one."""
    return ("text", LATER, MID) if listed == LIST else ("item",)


def in_mark(state: State, code: bytes) -> State:
    """Behind what may become the mark of an item: `("mark", sign, listed, kind of another line)`."""
    _, sign, listed, kind = state
    if code in b" \t" and sign != b"9":
        return _item(listed)
    if sign == b"9" and code.isdigit():
        return state
    if sign == b"9" and code in b".)":
        return ("mark", b".", listed, kind)
    if sign == b"-" and code == b"-":
        return ("heading",)  # a rule
    if sign == b".":
        return ("text", kind, MID) if code != b"\n" else ("start", PLAIN, False)
    return in_text(("text", FIRST if sign == b"*" else kind, 1 if sign == b"9" else MID), code)


def in_bullet(state: State, code: bytes) -> State:
    """Inside a character that begins like a bullet: `("bullet", prefix, listed, kind of another line)`."""
    _, prefix, listed, kind = state
    assert isinstance(prefix, bytes)
    if prefix + code == BULLET:
        return _item(listed)
    if prefix + code == BULLET[:2]:
        return ("bullet", prefix + code, listed, kind)
    return in_partial(("partial", kind, prefix, MID), code)


def in_row(state: State, code: bytes) -> State:
    """In a row of a table: `("row", rows before, up to two, whether a bar has just closed it)`."""
    _, rows, closed = state
    if code == b"\n":
        return ("start", ROWS if rows == 0 else TABLE, rows == 2) if closed else ("start", PLAIN, False)
    return state if code in b" \r\t" else ("row", rows, code == b"|")


def in_line(state: State, code: bytes) -> State:
    """In a heading or a rule, or in the first item of a list: nothing lands before the line's end."""
    if code != b"\n":
        return state
    return ("start", NEW if state == ("heading",) else LIST, False)
