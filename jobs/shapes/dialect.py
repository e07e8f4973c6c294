"""What Python's `re`, which judges answers, and llguidance, which keeps them, read otherwise in an expression."""

import re

_QUANTIFIER = re.compile(r"([*+?]|\{(\d+(,\d*)?|,\d*)\})\+")
_SET_SIGNS = ("&&", "--", "~~")


def ambiguity(pattern: str) -> str | None:
    """Return what the two read otherwise in an expression, and what to write instead; None if there is nothing.

    llguidance has sets within sets and their differences, as Rust's regex, where Python has plain characters;
    Python has possessive quantifiers since 3.11, where llguidance repeats once more.
    """
    in_set, at = False, 0
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            at += 2
            continue
        if not in_set:
            possessive = _QUANTIFIER.match(pattern, at)
            if possessive is not None:
                return (
                    f"the possessive quantifier `{possessive[0]}`, at character {at + 1}; leave its last `+` out"
                )
            in_set = sign == "["
            if in_set:  # a `]` right behind the begin is a plain character
                at += 1 + (pattern[at + 1 : at + 2] == "^")
                at += pattern[at : at + 1] == "]"
                continue
        elif sign == "]":
            in_set = False
        elif sign == "[":
            return f"a `[` in brackets, at character {at + 1}; write `\\[` for the character"
        elif pattern[at : at + 2] in _SET_SIGNS:
            return f"`{pattern[at : at + 2]}` in brackets, at character {at + 1}; write `\\` before each"
        at += 1
    return None
