"""Loops, exact and near: whether a text ends in a repetition, and where its first copy ends.

A text is cut into words, signs and line ends; case is dropped, and every number counts as the same word. A word
is covered where three words in a row that hold it stand elsewhere in the text as well. A loop is an end of the
text that is covered but for few words, over at least three times the distance at which the words return. So
counters may rise, a word may change from round to round, and two stretches may take turns. What keeps lists,
refrains, code and tables of data out is what they bring that is new: words that are not covered, or figures
where there are hardly any words.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import compress
from statistics import median_low

from endmark.jobs.endings.figures import says_one_thing, telling
from endmark.jobs.endings.returning import (
    BYTES_A_TOKEN,
    Loop,
    bytes_a_token,
    length_of,
    line_again,
    sentence_again,
)

COPIES, TOKENS = 3, 48  # from which on a repetition is a loop
_WINDOW = 5000  # characters at the end of the text that are looked at
_COVERED = 0.84  # share of a loop's words that stand elsewhere in it
_LOSS = -_COVERED / (1 - _COVERED)  # what a word that does not weighs against one that does
_LISTED = 0.9  # the same where most lines are items or rows, which may be alike and still say something new
_FIGURES = 0.95  # the same where the numbers are what is told
_EXACT = 24  # characters at the end that are looked for before it
_REST = 6  # words at the end that may be no copy of anything: the begun next round
_LACKING = 0.35  # part of a copy that may be missing, as the first one often begins in other words
_SIGN = 0.1  # what a sign weighs beside a word
_LONG = 24  # letters from which on a word is read letter by letter: it may be a loop of its own
_CODA, _LONGEST_CODA, _MOST_CODAS = 10, 120, 4  # copies to what is behind a loop, its characters, places tried
_PROBES, _PROBE, _REACH = 12, 10, 240  # how often the end is probed for what returns, and with how many bytes

OWN_WORDS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # no spaces between
_WORD = re.compile(rf"[{OWN_WORDS}]|[^\W\d_{OWN_WORDS}]+|\d{{1,8}}|\n+|[!-/:-@\[-`{{-~]{{1,4}}|[^\w\s]")
_ASCII_WORD = re.compile(r"[A-Za-z]+|\d{1,8}|\n+|[!-/:-@\[-`{-~]{1,4}")
_CLOSED = re.compile(r"[.!?。！？।](?=\s|$)|[。！？]|\n[ \t]*\n")
_LISTED_LINE = re.compile(r"^[ \t]*(?:[-*+•|]|\d+[.)]|[A-Za-z]\))", re.MULTILINE)
_GLUED = re.compile(r"[^\W\d_](?=\d)")  # letters and a figure right behind them, which may be one token
_FOLDED = bytes(range(256)).lower().translate(bytes.maketrans(b"123456789", b"000000000"))
_BLANKS, _BLANK = re.compile(rb"\|(?: *\|)+"), b"||||||||"  # cells with nothing in them, of any width and number
_PLAIN = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\n")


def loop_of(text: str, copies: int = COPIES, tokens: int = TOKENS) -> Loop | None:
    """Return the loop that the text ends in, or None.

    Args:
        text: an answer, whole or as far as it is.
        copies: how often a stretch must stand in a row, all but exactly.
        tokens: how many tokens' worth of text (4 bytes each in ASCII, fewer elsewhere) the copies must span.
    """
    end = len(text.rstrip())
    exact = _exact(text, end, copies, tokens)
    if exact is not None:
        return exact
    begin = max(0, end - _WINDOW)
    tail = text[begin:end]
    again = line_again(tail, begin, copies, tokens) or sentence_again(tail, begin, copies, tokens)
    if again is not None:
        return again
    return _Words(tail, begin).loop(copies, tokens) if _may_loop(tail, copies) else None


@lru_cache(maxsize=1)  # a watcher, `trim` and the verdict ask about the same end
def loop_near_end(text: str) -> Loop | None:
    """Return the loop that the text ends in, or one behind which there is little more, or None.

    What stands behind may be a tenth of the loop at most, and the loop has two copies more than else.
    """
    found = loop_of(text)
    if found is not None:
        return found
    end = len(text.rstrip())
    begin = max(0, end - _WINDOW)
    tail = text[begin:end]
    for cut in _codas(tail):
        if not _may_loop(tail[:cut], COPIES + 2):
            continue
        found = loop_of(text[: begin + cut], COPIES + 2, TOKENS + TOKENS // 3)
        if found is not None and _CODA * (end - begin - cut) <= begin + cut - found.start:
            return found
    return None


def _codas(text: str) -> Iterator[int]:
    """Yield where a text's last sentences begin, and where its last clause does that says something new."""
    first = max(0, len(text) - _LONGEST_CODA)
    places = [first + match.end() for match in _CLOSED.finditer(text[first:]) if first + match.end() < len(text)]
    yield from places[: -_MOST_CODAS - 1 : -1]


def _exact(text: str, end: int, copies: int, tokens: int) -> Loop | None:
    """Return the loop that repeats a stretch to the letter, or None."""
    size = length_of(tokens, text[max(0, end - tokens * BYTES_A_TOKEN) : end])
    probe = text[max(0, end - _EXACT) : end]
    before = text.rfind(probe, 0, end - 1)
    period = end - len(probe) - before
    span = max(size, copies * period)
    if before < 0 or span > end or text[end - span + period : end] != text[end - span : end - period]:
        return None
    start = end - span
    while start >= period and text[start - period : start] == text[start : start + period]:
        start -= period
    while start > 0 and text[start - 1] == text[start - 1 + period]:
        start -= 1
    return Loop(start, start + period)


def _may_loop(text: str, copies: int) -> bool:
    """Whether most of what stands near the end has stood as often before; cheap, and true of every loop."""
    data = text.encode(errors="replace").translate(_FOLDED)
    if b"|" in data:
        data = _BLANKS.sub(_BLANK, data)
    step = max(1, min(len(data), _REACH) // _PROBES)
    ends = range(len(data), _PROBE, -step)[:_PROBES]
    left, wanted = len(ends), _PROBES // 2
    for stop in ends:
        if left < wanted or not wanted:
            break
        left -= 1
        wanted -= data.count(data[stop - _PROBE : stop]) >= copies
    return not wanted


class _Words:
    """The words of the end of a text, and which of them stand elsewhere in it."""

    def __init__(self, text: str, begin: int) -> None:
        found = (_ASCII_WORD if text.isascii() else _WORD).findall(text)
        if max(map(len, found), default=0) >= _LONG:
            found = [piece for word in found for piece in (word if len(word) >= _LONG else (word,))]
        self._text, self._begin, self._raw = text, begin, found
        self._weights = [_SIGN if word[0] in _PLAIN else 1.0 for word in found]
        self._places: list[int] = []  # where each word begins, once that is asked for

    def loop(self, copies: int, tokens: int) -> Loop | None:
        """Return the loop at the end, see `loop_of`."""
        words = ["0" if word[0].isdigit() else word.lower() for word in self._raw]
        if ")" in words:  # a mark before an item counts, like a number
            for index in range(2, len(words)):
                if words[index] == ")" and words[index - 2][0] == "\n" and len(words[index - 1]) == 1:
                    words[index - 1] = "0"
        found = self._repeated(words, copies, tokens)
        if found is None:
            return None
        start, period = found
        if self._are_figures(start):
            found = self._repeated([word.lower() for word in self._raw], copies, tokens, _FIGURES)
        if found is None:
            return None
        start, period = found
        return Loop(self._begin + self._at(start), self._begin + self._at(start + period))

    def _at(self, index: int) -> int:
        """Return where a word begins in the text."""
        if not self._places:
            end = 0
            for word in self._raw:
                begin = self._text.index(word, end)
                self._places.append(begin)
                end = begin + len(word)
        return self._places[index]

    def _repeated(
        self, words: list[str], copies: int, tokens: int, needed: float = _COVERED
    ) -> tuple[int, int] | None:
        """Return where a repetition begins that reaches to the end, and how many words later it returns."""
        start, before = 0, -1
        while start > before:  # what stands only before the loop covers nothing in it
            covered = self._covered(words, start)
            start, before = self._start(covered, start), start
        if start >= len(words) - copies:
            return None
        weights = self._weights[start:]
        share = sum(compress(weights, covered)) / max(1, sum(weights))
        if share < max(needed, self._needed(start)):
            return None
        period, times = _rhythm(words[start:])
        if times < copies - _LACKING or len(words) - start < (copies - _LACKING) * period:
            return None
        if not any(covered[-_REST:]):  # it has found its way out
            return None
        return (start, period) if self._tokens(start) >= tokens else None

    def _tokens(self, start: int) -> float:
        """Return about how many tokens the text from a word on has; a word or sign is one at least."""
        text = self._text[self._at(start) :]
        size = len(text.encode(errors="replace")) / bytes_a_token(text)
        return max(size, len(self._raw) - start - len(_GLUED.findall(text)))

    def _start(self, covered: list[bool], begin: int) -> int:
        """Return where the end of the text begins that is covered but for few words.

        Args:
            covered: of the words from `begin` on.
        """
        best, start, score = 0.0, len(self._raw), 0.0
        index, weights = start, self._weights[begin:]
        left = sum(weights) + 1  # more than what words not yet seen can add
        for known, weight in zip(reversed(covered), reversed(weights), strict=True):
            index -= 1
            left -= weight
            if known:
                score += weight
                if score > best:
                    best, start = score, index
            else:
                score += _LOSS * weight
                if score + left < best:
                    break
        return start

    def _covered(self, words: list[str], begin: int) -> list[bool]:
        """Return for each word from `begin` on whether three in a row that hold it stand there twice."""
        part = words[begin:]
        runs = list(zip(part, part[1:], part[2:], strict=False))
        counts = Counter(runs)
        known = [False, False, *[counts[run] > 1 for run in runs], False, False]
        return [a or b or c for a, b, c in zip(known, known[1:], known[2:], strict=False)][: len(part)]

    def _needed(self, start: int) -> float:
        """Return the share of words that must be covered from `start` on."""
        part = self._text[self._at(start) :]
        lines = part.count("\n") + 1
        return _LISTED if lines > 2 and 2 * len(_LISTED_LINE.findall(part)) > lines else _COVERED

    def _are_figures(self, start: int) -> bool:
        """Whether it is the numbers that tell something: they neither return nor count, or stand nearly alone."""
        raw = self._raw[start:]
        if not any(map(str.isdecimal, raw)):
            return False
        if says_one_thing(self._text[self._at(start) :]):
            return False
        numbers = [
            word
            for word, before in zip(raw, [self._raw[start - 1] if start else "\n", *raw], strict=False)
            if word[0].isdigit() and before[0] != "\n"
        ]
        words = sum(word[0] not in _PLAIN for word in raw)
        alone = 2 * sum(word[0].isdigit() for word in raw) > words
        new = telling(numbers, counting_tells=alone)
        return 2 * new > len(numbers) and 12 * new > words


def _rhythm(words: list[str]) -> tuple[int, float]:
    """Return after how many words three in a row return, for most of them, and how often they stand there."""
    last: dict[tuple[str, str, str], int] = {}
    distances: list[int] = []
    returning = set()
    for index, run in enumerate(zip(words, words[1:], words[2:], strict=False)):
        if run in last:
            distances.append(index - last[run])
            returning.add(run)
        last[run] = index
    return (median_low(distances), 1 + len(distances) / len(returning)) if distances else (0, 0.0)
