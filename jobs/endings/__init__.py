"""Endings: where a text ends, judged in one place for all who ask."""

from endmark.jobs.endings.blocks import in_or_behind_block
from endmark.jobs.endings.lines import Kind, body_of, is_whole_item, is_whole_row, kind_of, siblings_end_sentences
from endmark.jobs.endings.loops import loop_of
from endmark.jobs.endings.sentences import dangles, ends_with_sentence, leaves_open
from endmark.jobs.vocabulary import Ending

__all__ = ["Ending", "ending_of"]
_TAIL = 1500  # characters that hold the last lines
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
    if loop_of(bare) is not None:
        return Ending.LOOP
    inside = in_or_behind_block(bare)
    if inside is not None:
        return Ending.OPEN if inside else Ending.BLOCK
    return _ending_of_line(bare, cut=cut and "\n" not in text[len(bare) :])


def _ending_of_line(text: str, *, cut: bool) -> Ending:
    """Return where a text that is inside no block ends, by its last lines."""
    lines = text[-_TAIL:].split("\n")
    last = lines[-1]
    kind = kind_of(last)
    if kind is Kind.TABLE:
        return Ending.ITEM if is_whole_row(lines) else Ending.OPEN
    if kind is Kind.RULE:
        return Ending.OPEN if last.lstrip()[0] == "|" or len(lines) == 1 else Ending.ITEM
    if leaves_open(last):
        return Ending.OPEN
    if ends_with_sentence(text, cut=cut):
        return Ending.SENTENCE
    if cut or dangles(last) or (kind is Kind.LIST and not body_of(last)):
        return Ending.OPEN
    if is_whole_item(lines, kind):
        return Ending.OPEN if siblings_end_sentences(lines, kind) else Ending.ITEM
    if kind is Kind.HEADING and len(lines) > 1:
        return Ending.OPEN
    long = kind is Kind.PLAIN and len(last.split()) > _TITLE_WORDS
    return Ending.OPEN if long else Ending.PHRASE
