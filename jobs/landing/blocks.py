"""Brackets, values, code fences, LaTeX and tags: there is no landing spot in them, and one behind them."""

from endmark.jobs.landing.words import ENDED, FIRST, LIST, MID, NEW, PLAIN, WORD, State, in_text
from endmark.jobs.sentences import CLOSERS, MARKUP

CLOSED: State = ("closed",)
_DEPTH = 3


def in_bracket(state: State, code: bytes) -> State:
    """In a bracket within a line: `("bracket", kind, depth, how it stands)`.

    It is `new` while nothing stands in it; `whole` where a sentence of its own may, and `ended` behind one. A
    bracket with which the line ends holds lines: code, such as a function's or a statement's.
    """
    _, kind, depth, whole = state
    assert isinstance(depth, int)
    if code == b"\n":
        return ("code", depth) if whole == "new" else ("start", PLAIN if kind == FIRST else LIST, False)
    if code in b"([{":
        return ("bracket", kind, min(depth + 1, _DEPTH), "new")
    if whole == "new":
        whole, state = "", state if code in b" \t\r" else ("bracket", kind, depth, "")
    if code in b")]}":
        if depth > 1:
            return ("bracket", kind, depth - 1, "")
        return ("text", kind, ENDED if whole == "ended" else WORD)
    if depth > 1 or not whole or code in MARKUP or code in CLOSERS.encode():
        return state
    return ("bracket", kind, depth, "ended" if code in b".!?" else "whole")


def in_square(state: State, code: bytes) -> State:
    """Behind a bracket that begins a line: a value, or `[a placeholder]`, `[10:30]`, `[1]`."""
    if code.isalnum() or code >= b"\x80":
        return in_bracket(("bracket", state[1], 1, ""), code)
    return in_value(("value", 1), code)


def in_value(state: State, code: bytes) -> State:
    """In a value, such as JSON, that begins a line, or in code: `(which, depth)`; deep, only column 0 closes it.

    Round brackets count in code alone: in a value they stand in its texts.
    """
    which, depth = state
    opening, closing = (b"([{", b")]}") if which == "code" else (b"[{", b"]}")
    if depth in ("deep", "margin"):
        if depth == "margin" and code in closing:
            return CLOSED
        return (which, "margin" if code == b"\n" else "deep")
    assert isinstance(depth, int)
    if code in opening:
        return (which, depth + 1 if depth < _DEPTH else "deep")
    if code in closing:
        return (which, depth - 1) if depth > 1 else CLOSED
    return state


def in_ticks(state: State, code: bytes) -> State:
    """Behind one or two back quotes at the start of a line: `("ticks", how many, kind of another line)`."""
    _, count, kind = state
    if code == b"`":
        return ("ticks", 2, kind) if count == 1 else ("fence", -1)
    return in_text(("text", kind, MID), code)


def in_fence(state: State, code: bytes) -> State:
    """In a fence: `("fence", back quotes at the start of the line, or -1)`."""
    count = state[1]
    assert isinstance(count, int)
    if code == b"\n":
        return ("fence", 0)
    if code == b"`" and count >= 0:
        return ("fence", count + 1) if count < 2 else CLOSED
    return state if code in b" \t" and count == 0 else ("fence", -1)


def behind_block(state: State, code: bytes) -> State:
    """Behind a block that has just closed."""
    if code == b"\n":
        return ("start", NEW, True)
    return state if code in b" \t\r`;" else in_text(("text", FIRST, WORD), code)


def behind_backslash(state: State, code: bytes) -> State:
    r"""In `\[` or `\begin`: `("backslash", kind, what has been spelled)`."""
    _, kind, spelled = state
    if code == b"[" and not spelled:
        return ("formula", "[")
    text = str(spelled) + code.decode("latin-1")
    if text == "beg":
        return ("environment", 1, "")
    return ("backslash", kind, text) if "beg".startswith(text) else in_text(("text", kind, MID), code)


def in_environment(state: State, code: bytes) -> State:
    r"""In an environment: `("environment", depth, what is spelled of \beg or \end, "}" until one closes)`."""
    _, depth, spelled = state
    assert isinstance(depth, int)
    if spelled == "}":
        closed = ("environment", depth - 1, "") if depth > 1 else CLOSED
        return closed if code == b"}" else state
    text = str(spelled) + code.decode("latin-1")
    if text == "\\beg":
        return ("environment", min(depth + 1, _DEPTH), "")
    if text == "\\end":
        return ("environment", depth, "}")
    begun = any(word.startswith(text) for word in ("\\beg", "\\end"))
    return ("environment", depth, text if begun else "\\" if code == b"\\" else "")


def in_formula(state: State, code: bytes) -> State:
    r"""In a formula between `\[` and `\]`, or between two double dollars: `("formula", opening, escaped)`."""
    ending, begins = (b"]", b"\\") if state[1] == "[" else (b"$", b"$")
    if len(state) > 2 and code == ending:
        return CLOSED
    return (*state[:2], "begun") if code == begins else state[:2]


def behind_dollar(state: State, code: bytes) -> State:
    """Behind a dollar at the start of a line."""
    return ("formula", "$") if code == b"$" else in_text(("text", state[1], MID), code)


def in_tag(state: State, code: bytes) -> State:
    """Behind `<` at the start of a line."""
    return ("html", "") if code.isalpha() or code in b"!?" else in_text(("text", state[1], MID), code)


def in_html(state: State, code: bytes) -> State:
    """In markup: `("html", what stands at the margin)`; a tag that closes there or a blank line ends it."""
    at = state[1]
    if code == b"\n":
        return ("start", NEW, False) if at == "\n" else ("html", "\n")
    if at == "/":
        return CLOSED if code == b">" else state
    following = {("\n", b"<"): "<", ("<", b"/"): "/"}
    return ("html", following.get((str(at), code), ""))
