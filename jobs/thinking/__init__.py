"""Models that think: the marks around a thought, and what of an answer's text is thought."""

from endmark.jobs.thinking.marks import Marks, find_marks, is_opened, prefilled, read_marks
from endmark.jobs.thinking.parts import Parts, split

__all__ = ["Marks", "Parts", "find_marks", "is_opened", "prefilled", "read_marks", "split"]
