"""A judge of endings that shares nothing with the project's own, to see what that one says of real answers.

It was written from the definitions alone, and works in another way. A loop is told by how much of a tail stands
three times in runs of four words, by how alike the tail is to itself shifted by a period, by how often its lines
come again, and by how far a compressor shrinks it; a whole end by lists of signs. It is slow, takes every number
for the same word, and has no part in what Endmark does: `benchmarks/judges.py` sets both beside each other.
"""

import re
import unicodedata
import zlib
from collections import Counter
from difflib import SequenceMatcher
from itertools import pairwise

_ENDS = ".!?…‽。！？｡．؟۔।॥։።፧᙮។៕၊။།༎᠃჻⸮"
_CLOSERS = "\"'”’»›)]}）】」』》〉*_`~ \t\n"
_UNIT = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
_SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0002ffff]")
_ITEM = re.compile(r"\s*(?:[-*•+–—▪◦✓✔✅☐]|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])\s+\S")
_KEYED = re.compile(r"\s*[^\n:：]{1,48}[:：]\s*\S")
_CLOSED = re.compile(r"(?:```|~~~|</[\w:-]+>|\\end\{\w+\*?\}|\$\$|\\\])\s*$")
_LEAST_BYTES = 160  # about 48 tokens
_ALIKE = 0.8  # share of a tail's words that are those of a period before
_SHRUNK = 0.16  # bytes of a compressed tail to those of it
_LINE_ALIKE = 0.86
_RUN, _TAIL, _SEEN = 4, 36, 0.7  # words of a run, runs that are looked at, share of them that must stand thrice


def judge_of(text: str, *, natural: bool) -> str:
    """Return `loop`, `whole`, `open` or `empty`.

    Args:
        text: an answer.
        natural: whether the model ended it by itself, so that words without a sign at their end are whole.
    """
    if not text.strip():
        return "empty"
    if is_loop(text):
        return "loop"
    return "whole" if _ends_whole(text, natural) else "open"


def is_loop(text: str) -> bool:
    """Whether a text ends in at least three copies of something, with numbers, case or single words changed."""
    words = _words(text)
    return _shifts_onto_itself(words) or _stands_before(words) or _lines_again(text) or _shrinks(text)


def _words(text: str) -> list[str]:
    """Return words and signs, all numbers alike; each sign of a script without spaces is a word."""
    spaced = _SPACELESS.sub(lambda sign: f" {sign[0]} ", text.lower())
    return ["0" if word.isdigit() else word for word in _UNIT.findall(spaced)]


def _stands_before(words: list[str]) -> bool:
    """Whether most runs of four of the last words stand three times in the text."""
    runs = [tuple(words[at : at + _RUN]) for at in range(len(words) - _RUN + 1)]
    counts = Counter(runs)
    tail = runs[-_TAIL:]
    return len(tail) == _TAIL and sum(counts[run] >= 3 for run in tail) >= _SEEN * _TAIL


def _shifts_onto_itself(words: list[str]) -> bool:
    """Whether the last three periods of some length are alike, word by word."""
    for period in range(1, len(words) // 3 + 1):
        copies = max(3, -(-36 // period))
        span = copies * period
        if span > len(words):
            continue
        tail = words[-span:]
        if sum(len(word.encode()) + 1 for word in tail) < _LEAST_BYTES * 0.8:
            continue
        same = sum(one == other for one, other in zip(tail, tail[period:], strict=False))
        if same >= _ALIKE * (span - period):
            return True
    return False


def _lines_again(text: str) -> bool:
    """Whether at least four of the last five long lines are alike, or those of the tail are nearly all copies."""
    lines = [" ".join(_words(line)) for line in text.strip().splitlines() if line.strip()][:-1]
    last = [line for line in lines[-5:] if len(line) >= 24]
    if len(last) == 5:
        alike = sum(
            SequenceMatcher(None, one, other, autojunk=False).ratio() >= _LINE_ALIKE
            for one, other in pairwise(last)
        )
        if alike == 4:
            return True
    tail = lines[-12:]
    return (
        len(tail) >= 6
        and len("".join(tail).encode()) >= _LEAST_BYTES
        and Counter(tail).most_common(1)[0][1] >= 3
        and len(set(tail)) <= len(tail) // 3
    )


def _shrinks(text: str) -> bool:
    """Whether a compressor takes the last 600 bytes for a repetition."""
    tail = text.encode()[-600:]
    return len(tail) >= 400 and len(zlib.compress(tail, 9)) < _SHRUNK * len(tail) + 12


def _is_pictogram(sign: str) -> bool:
    return unicodedata.category(sign) in ("So", "Sk", "Cf", "Mn", "Co", "Cn")


def _ends_whole(text: str, natural: bool) -> bool:
    """Whether a text ends behind a sentence, an item or a block; behind words too if the model ended it."""
    if sum(line.lstrip().startswith(("```", "~~~")) for line in text.splitlines()) % 2:
        return False
    bare = text.rstrip()
    if _CLOSED.search(bare):
        return True
    if any(text.count(left) > text.count(right) for left, right in ("[]", "{}")):
        return False
    if bare.endswith(("}", "]")):
        return True
    core = bare
    while core and (core[-1] in _CLOSERS or _is_pictogram(core[-1])):
        core = core[:-1]
    if core and core[-1] in _ENDS and not re.search(r"(?:^|\n)\s*\d{1,3}[.)]$", core):
        return True
    return (natural and _no_more_to_come(core)) or _behind_item(text)


def _no_more_to_come(core: str) -> bool:
    """Whether nothing at the end says that more was to come."""
    return (
        bool(core)
        and core[-1] not in ",;:–—-("
        and not re.search(
            r"(?i)\b(?:and|or|the|a|an|of|to|with|for|in|is|are|but|because|und|oder|der|die|das|et|ou|le|la|les|de|y|o|el)$",
            core,
        )
    )


def _behind_item(text: str) -> bool:
    """Whether the last line is a whole one of a list, a table or of pairs, like the line before it."""
    if not text.endswith("\n"):
        return False
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return False
    before, last = lines[-2:]
    if "|" in last:
        return last.count("|") == before.count("|")
    for kind in (_ITEM, _KEYED):
        if kind.match(before) and kind.match(last):
            return True
    return len(last) < 60 and len(before) < 60  # verse
