"""Whether a whole text ends with a sentence: closing signs, emoji and footnote marks may stand behind it."""

import re
from collections.abc import Sequence
from itertools import takewhile

from endmark.jobs.sentences import ABBREVIATIONS, TERMINATORS

EMOJI = "\u2190-\u2bff\u3030\u303d\ufe0f\u200d\U0001f000-\U0001faff\U000e0020-\U000e007f"
_BEHIND = re.compile(
    rf"(?:[\s\"')\]}}”’»›」』）】》〉*_`~$%{EMOJI}¹²³\u2070-\u2079†‡]|\[\^?\d+\]|</?[a-z]+>|[:;]-?[)D])+\Z"
)
_SHORT = re.compile(r"(?:^|[^\w.])(?:[a-z]\.)?([A-Za-z]{1,6})\.\Z")
_HOURS = ("a.m.", "p.m.")
_NUMBER_ALONE = re.compile(r"(?:^|\n)[ \t]*(?:[*_]{0,2}|#+ )(?:\d+|[A-Za-z]|[ivx]+)[.)]\Z")
_PAIRS = tuple(pair.split() for pair in ("( )", "“ ”", "« »", "「 」", "『 』", "（ ）", "【 】", "《 》"))
_OPENING = re.compile(r"(?:(?<=[\s(\[{*_—–-])|\A)\"(?=\S)")
_CLOSING = re.compile(r"(?<=\S)\"(?=[\s.,;:!?)\]}*_—–-]|\Z)")
_DANGLING = re.compile(
    r"(?:^\[\d\d?:\d\d\]|[,;:،、，；：(\[{“«「–—=+/&\\<]|\s-|"
    r"\b(?:the|an?|and|or|but|of|to|in|on|at|by|for|with|from|as|that|which|who|is|are|was|were|be|has|have|had|"
    r"will|would|can|could|should|may|their|its?|my|your|our|his|if|when|while|because|than|into|this|these|"
    r"und|oder|der|die|das|ein|eine|mit|von|zu|für|et|ou|le|la|les|une?|des?|du|avec|pour|y|el|los|las|con|para|"
    r"il|lo|gli|di|e|o|os|um|uma|em|do|da))\Z",
    re.IGNORECASE,
)


def ends_with_sentence(text: str, *, cut: bool) -> bool:
    """Whether the text ends where a sentence does.

    Args:
        text: an answer without white space at its end.
        cut: whether it might have gone on, so that a full stop behind a digit or a lone letter proves nothing.
    """
    core = bare_end(text)
    if not core or (core[-1] not in TERMINATORS and core[-1] != "."):
        return False
    if core[-1] != "." or core.endswith(".."):
        return True
    if _NUMBER_ALONE.search(core[core.rfind("\n") + 1 :]):
        return False
    if core[-2:-1].isdigit():
        return not cut
    short = _SHORT.search(core[-12:])
    if short is None:
        return True
    word = short[1]
    if len(word) > 1:
        return word not in ABBREVIATIONS
    return not cut and (core[-3:-2] != "." or core.endswith(_HOURS))


def bare_end(text: str) -> str:
    """Return the end of the text without what may stand behind a sentence."""
    tail = text[-96:]
    if tail[-1:] in TERMINATORS:  # nothing does, as for most answers
        return tail
    match = _BEHIND.search(tail)
    return tail[: match.start()] if match else tail


def leaves_open(lines: Sequence[str]) -> bool:
    """Whether a bracket, quotation or code mark that opens in the last line does not close in it.

    One that a line before has opened, in the same paragraph, closes in it.
    """
    line = lines[-1]
    if any(opening in line and line.count(opening) > line.count(closing) for opening, closing in _PAIRS):
        return True
    odd = [sign for sign in '`"' if line.count(sign) % 2 and not (sign == '"' and line.endswith(sign))]
    if not odd:
        return False
    paragraph = "\n".join(reversed(list(takewhile(str.strip, reversed(lines)))))
    return any(paragraph.count(sign) % 2 and (sign == "`" or _quotes(paragraph)) for sign in odd)


def _quotes(paragraph: str) -> bool:
    """Whether a quotation is open in a paragraph with an odd number of marks, of which one may mean inches."""
    opening, closing = len(_OPENING.findall(paragraph)), len(_CLOSING.findall(paragraph))
    return opening > closing or opening + closing < paragraph.count('"')


def dangles(line: str) -> bool:
    """Whether more must follow: the line ends in a comma, in a word such as `the`, or in an abbreviation."""
    return line.endswith(".") or _DANGLING.search(line[-16:].rstrip(" *_")) is not None
