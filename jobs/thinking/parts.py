"""What of an answer's text is thought: split at the marks, the rest left as it is."""

import re
from dataclasses import dataclass
from functools import cache

from endmark.jobs.thinking.marks import Marks

_MOST_MARKS = 16  # that are looked at: a loop of marks is no further thought
_ENDS = tuple(".!?…。！？")  # of a sentence: a mark right behind it, without a space, is none of its words
_FENCE = re.compile(r"^[ \t]{0,3}(?:```|~~~)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Parts:
    """An answer's text in its two parts."""

    reasoning: str | None  # its thoughts without marks; None where it has not thought
    before: str  # what it answered before its last thought, most often nothing
    begin: int  # characters before the last part, a mark included
    is_open: bool  # whether the last part is a thought
    closed: int  # how many thoughts were closed

    def answer(self, text: str) -> str:
        """Return the answer alone; one that follows a thought without the white space in between."""
        if self.reasoning is None:
            return text
        return (self.before + ("" if self.is_open else text[self.begin :])).lstrip()


def split(text: str, marks: Marks, *, opened: bool) -> Parts:
    """Split a text at its thinking marks.

    A mark opens a thought at the beginning of the text, and later where it begins a line, or stands right
    behind a sentence, outside code. What stands before a closing mark that nothing has opened is a thought
    too, but not in code: there marks are text. What becomes of a mark depends on what stands before it alone,
    so a text that grows is split as its whole will be.

    Args:
        text: the answer as it was generated, marks included.
        marks: the model's.
        opened: whether the prompt has opened a thought.
    """
    thoughts: list[str] = []
    answers: list[str] = []
    is_open, begin, closed = opened, 0, 0
    for count, mark in enumerate(_pattern(marks).finditer(text)):
        if count >= _MOST_MARKS:
            break
        piece = text[begin : mark.start()]
        if mark[0] != marks.open:
            if not is_open and (thoughts or _in_code(piece)):
                continue
            thoughts.append(piece)
            closed += 1
        else:
            if is_open or not _may_open(piece):
                continue
            answers.append(piece)
        is_open, begin = mark[0] == marks.open, mark.end()
    if is_open:
        thoughts.append(text[begin:])
    if marks.header:
        thoughts = [part for thought in thoughts for part in re.split(marks.header, thought)]
    told = [thought.strip().removeprefix(marks.open).lstrip() for thought in thoughts]  # opened twice
    return Parts(
        reasoning="\n\n".join(filter(None, told)) if thoughts else None,
        before="".join(answers).lstrip(),
        begin=begin,
        is_open=is_open,
        closed=closed,
    )


def _may_open(piece: str) -> bool:
    """Whether a mark behind this part of an answer opens a thought: none that stands among words does."""
    if not piece.strip():
        return True
    return (piece.rstrip(" \t").endswith("\n") or piece.endswith(_ENDS)) and not _in_code(piece)


def _in_code(piece: str) -> bool:
    """Whether a text ends inside a code fence, or inside a line's code."""
    if len(_FENCE.findall(piece)) % 2:
        return True
    return piece[piece.rfind("\n") + 1 :].count("`") % 2 == 1


@cache
def _pattern(marks: Marks) -> re.Pattern[str]:
    """Return what finds either mark, the closing one in all its forms."""
    forms = f"|{marks.forms}" if marks.forms else ""
    return re.compile(f"{re.escape(marks.open)}|{re.escape(marks.close)}{forms}")
