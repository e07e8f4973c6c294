"""Endings: where a text ends, judged in one place for all who ask."""

import re
from bisect import bisect_left
from collections.abc import Sequence

from endmark.jobs.endings.blocks import in_or_behind_block
from endmark.jobs.endings.lines import (
    Kind,
    begins_clause,
    body_of,
    ends_statement,
    heads_a_list,
    is_code,
    is_whole_item,
    is_whole_row,
    kind_of,
    siblings_end_sentences,
)
from endmark.jobs.endings.loops import loop_near_end
from endmark.jobs.endings.sentences import dangles, ends_with_sentence, leaves_open
from endmark.jobs.landing import spots
from endmark.jobs.vocabulary import Ending

__all__ = ["Ending", "ending_of", "whole_part"]
_TAIL = 1500  # characters that hold the last lines
_CAPITALS = 0.7  # share of a headline's words that begin with a capital
_BRACKETED = re.compile(r"\([^()]*\)")
_TITLE_WORDS = 12  # words that a line without a terminator may have to be a phrase and no broken sentence


def ending_of(text: str, *, cut: bool = False) -> Ending:
    """Return where the text ends.

    Args:
        text: the whole answer.
        cut: whether it was cut and not trimmed, so that its last line is whole only where a line end follows.
    """
    bare = text.rstrip()
    if not bare:
        return Ending.EMPTY
    if loop_near_end(bare) is not None:
        return Ending.LOOP
    inside = in_or_behind_block(bare)
    if inside is not None:
        return Ending.OPEN if inside else Ending.BLOCK
    return _ending_of_line(bare, cut=cut and "\n" not in text[len(bare) :])


def whole_part(text: str, lengths: Sequence[int]) -> int:
    """Return how many of a text's tokens there are up to the last landing spot where it is whole; 0 without one.

    White space behind it is no part of it. Of a loop its first copy is kept, and the sentence that is open there.

    Args:
        text: an answer that was cut.
        lengths: characters of the text after each of its tokens.
    """
    found = spots(text, lengths)
    loop = loop_near_end(text.rstrip())
    if loop is not None:
        ends = [lengths[count - 1] for count in found]
        first = bisect_left(ends, loop.kept)
        open_there = first < len(ends) and ends[first] < 2 * loop.kept - loop.start
        found = found[: first + open_there]
    for count in reversed(found):
        kept = text[: lengths[count - 1]]
        if ending_of(kept).is_whole:
            return bisect_left(lengths, len(kept.rstrip())) + 1
    return 0


def _ending_of_line(text: str, *, cut: bool) -> Ending:
    """Return where a text that is inside no block ends, by its last lines."""
    lines = text[-_TAIL:].split("\n")
    last = lines[-1]
    kind = kind_of(last)
    if kind is Kind.TABLE:
        return Ending.ITEM if is_whole_row(lines, cut=cut) else Ending.OPEN
    if kind is Kind.RULE:
        return Ending.OPEN if last.lstrip()[0] == "|" or len(lines) == 1 else Ending.ITEM
    if leaves_open(lines) or (last.endswith(".") and is_code(lines)):
        return Ending.OPEN
    if ends_with_sentence(text, cut=cut):
        return Ending.SENTENCE
    if not cut and ends_statement(last):
        return Ending.ITEM
    if cut or dangles(last) or begins_clause(last) or (kind is Kind.LIST and not body_of(last)):
        return Ending.OPEN
    if kind is Kind.LIST and heads_a_list(lines):
        return Ending.OPEN
    if is_whole_item(lines, kind):
        return Ending.OPEN if siblings_end_sentences(lines, kind) else Ending.ITEM
    if kind is Kind.HEADING and len(lines) > 1:
        return Ending.OPEN
    return Ending.OPEN if kind is Kind.PLAIN and not _is_title(last) else Ending.PHRASE


def _is_title(line: str) -> bool:
    """Whether a line without a terminator is a name, a title or a headline, and no broken sentence.

    It is short but for what stands in brackets, or most of its words begin with a capital.
    """
    words = _BRACKETED.sub("", line).split()
    return len(words) <= _TITLE_WORDS or sum(word[0].isupper() for word in words) >= _CAPITALS * len(words)
