"""What a text says again near its end: a stricter bar than that of a loop, for ends that `whole` chooses itself.

The verdict calls a text a loop where most readers would. Two copies of a long sentence are none to it, nor are
five of a phrase inside one sentence, nor rows of figures that count: the model may have meant them. A strategy
that decides where an answer ends need not leave it there.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from endmark.jobs.endings.figures import counting_rows
from endmark.jobs.endings.loops import OWN_WORDS
from endmark.jobs.endings.returning import Loop, sentences

_REACH = 1200  # characters at the end that are looked at
_WORDS = 120  # at the end, in which runs of words are looked for
_RUNS = ((8, 3), (6, 4))  # words, copies
_NEAR, _SHORT_RUN, _NEW = 60, 4, 0.6  # words at the end, runs of them, least share of the runs that are new
_RECENT, _LAST = 24, 3  # sentences that are looked at, and those of which one must be a copy
_LONG, _VERSE = 40, 72  # characters from which on a second copy is too many; the same of a line, for verse
_SHORT, _AS_OFTEN, _AMONG = 8, 3, 10  # characters of a shorter one, its copies, among so many sentences
_OF_CODE = 5  # copies of a line of code
_LEAST_RUN = 3  # words in a row that come again in whatever repeats itself
_WORD = re.compile(rf"[{OWN_WORDS}]|[^\W_{OWN_WORDS}]+")
_MARK = re.compile(r"[ \t]*(?:[-*+•]|\(?\d{1,3}[.):]|[A-Za-z][.)])[ \t]+")
_CODE = frozenset("=_({[;<\\|`")


def repeat_near_end(text: str) -> Loop | None:
    """Return what a text says again near its end, from its first copy on, or None.

    That is a sentence or item which stands there twice, a shorter one three times, eight words in a row three
    times or six four times, hardly any new run of four words, or rows of figures which only count.

    Args:
        text: an answer, up to where it is to end.
    """
    end = len(text.rstrip())
    begin = max(0, end - _REACH)
    tail = text[begin:end]
    words = _WORD.findall(tail)
    if len(set(_runs(words, _LEAST_RUN))) == max(0, len(words) - _LEAST_RUN + 1):  # as in most
        found = [*counting_rows(tail)]
    else:
        found = [*_said_again(tail), *_runs_again(tail), *counting_rows(tail)]
    if not found:
        return None
    first = min(found, key=lambda loop: loop.kept)
    return Loop(begin + first.start, begin + len(tail[: first.kept].rstrip(" \t")))


def _runs(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Return all runs of so many words."""
    return list(zip(*(words[shift:] for shift in range(size)), strict=False))


def _said_again(text: str) -> Iterator[Loop]:
    """Yield the sentences and items of which one of the last is a copy."""
    parts = [(at, part, _MARK.sub("", part, 1).strip().lower()) for at, part in sentences(text)][-_RECENT:]
    for bare in {bare for _, _, bare in parts[-_LAST:] if len(bare) >= _SHORT}:
        places = [index for index, part in enumerate(parts) if part[2] == bare]
        at, part, _ = parts[places[-1]]
        plain = _is_line(text, at, part) and _MARK.match(part) is None  # of verse, it may be
        if len(places) < 2:
            continue
        if plain and not _CODE.isdisjoint(bare):
            if len(places) < _OF_CODE:
                continue
        elif len(bare) < (_VERSE if plain else _LONG):
            places = [index for index in places if index >= len(parts) - _AMONG]
            at_once = len(places) >= _AS_OFTEN and places[-1] - places[-_AS_OFTEN] < _AS_OFTEN
            if len(places) < _AS_OFTEN + plain and not at_once:
                continue
        yield Loop(parts[places[0]][0], parts[places[1]][0])


def _is_line(text: str, at: int, part: str) -> bool:
    """Whether a part of a text is a whole line of it."""
    return text[:at].rstrip(" \t")[-1:] in ("", "\n") and text[at + len(part) : at + len(part) + 1] in ("", "\n")


def _runs_again(text: str) -> Iterator[Loop]:
    """Yield the first run of words that comes too often."""
    words = [word for at, line in _new_lines(text) for word in _WORD.finditer(text, at, at + len(line))][-_WORDS:]
    spelled = [word[0].lower() for word in words]
    for size, times in _RUNS:
        long = _runs(spelled, size)
        often = next((run for run, count in Counter(long).items() if count >= times), None)
        if often is not None:
            yield _between(words, long, often)
    if len(words) < _NEAR:
        return
    short = _runs(spelled[-_NEAR:], _SHORT_RUN)
    if len(set(short)) <= _NEW * len(short):
        yield _between(words[-_NEAR:], short, Counter(short).most_common(1)[0][0])


def _new_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text and where they begin, without copies of short ones, as of a refrain or code."""
    at, seen = 0, set()
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        if bare not in seen or len(bare) > _VERSE or _MARK.match(line):
            yield at, line
        seen.add(bare)
        at += len(line)


def _between(words: Sequence[re.Match[str]], runs: Sequence[tuple[str, ...]], run: tuple[str, ...]) -> Loop:
    """Return a run's first copy, up to where the second begins."""
    first = runs.index(run)
    return Loop(words[first].start(), words[runs.index(run, first + 1)].start())
