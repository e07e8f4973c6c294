"""The line in which a text ends: what kind of line it is, and whether the ones before it are of the same kind."""

import re
from enum import Enum

_LIST = re.compile(
    r"\s*(?:>\s*)?(?:[-+•◦▪‣·–—●○■*✓✔✅☑]\ufe0f?|\(?\d{1,3}[.)、．:]|\(?[A-Za-z][.)]|[\U0001f000-\U0001faff]+\ufe0f?(?=\s+\S))(?=\s|$)\s*"
)
_NUMBERED_BOLD = re.compile(r"\s*\*\*\d+[.)]\s*")
_NUMBERED = re.compile(r"(?:\*\*)?\d{1,3}[.)]\s")
_KEY = re.compile(r"\s*(?:\*\*|__|`)?[^\s:：|.!?][^:：|.!?\n]{0,48}(?:\*\*|__|`)?[:：](?:\*\*|__)?\s+\S")
_RULE = re.compile(r"\s*\|?[\s:|+-]*-{2,}[\s:|+-]*\|?\s*")
_HEADING = re.compile(r"\s*#{1,6}\s")
_CODE = re.compile(r"(?: {4}|\t).*(?:\w\(| = |[;{]$)")  # an indented line of code
_KEYWORD = (
    r"\b(?:SELECT|FROM|WHERE|HAVING|VALUES|SET|JOIN|INTO|LIMIT|TABLE|ORDER BY|GROUP BY)"  # of SQL, in capitals
)
_STATEMENT = re.compile(rf"(?:\w\(.*|\w ?[-+*/]?= ?\S.*|{_KEYWORD}\b.*);\Z")
_CLAUSE = re.compile(rf"{_KEYWORD}\Z")
_COMMENT = re.compile(r"\s*(?:#|//|/?\*|--|\"\"\")")
_VERSE = 72  # characters that a line of verse has at most
_NEAR = 12  # lines before the last one among which its like is looked for


class Kind(Enum):
    """What a line is."""

    BLANK = "blank"
    LIST = "list"
    TABLE = "table"
    RULE = "rule"
    KEY = "key"
    HEADING = "heading"
    PLAIN = "plain"


def kind_of(line: str) -> Kind:
    """Return what kind of line it is."""
    bare = line.strip()
    if not bare:
        return Kind.BLANK
    if bare[0] == "|":
        return Kind.RULE if _RULE.fullmatch(bare) else Kind.TABLE
    if _LIST.match(bare) or _NUMBERED_BOLD.match(bare):
        return Kind.LIST
    if _HEADING.match(bare):
        return Kind.HEADING
    if _RULE.fullmatch(bare):
        return Kind.RULE
    return Kind.KEY if _KEY.match(bare) else Kind.PLAIN


def body_of(line: str) -> str:
    """Return an item's own words, without its mark."""
    match = _LIST.match(line) or _NUMBERED_BOLD.match(line)
    return line[match.end() :] if match else line.strip()


def is_whole_row(lines: list[str], *, cut: bool) -> bool:
    """Whether the last line closes a row of a table that has a head, or a row before it.

    Args:
        lines: the text's lines.
        cut: whether it might have gone on, so that a row with fewer cells than the one before is none.
    """
    last = lines[-1].strip()
    before = [kind_of(line) for line in lines[-3:-1]]
    if cut and before[-1:] == [Kind.TABLE] and last.count("|") < lines[-2].count("|"):
        return False
    return last[1:].endswith("|") and (Kind.RULE in before or before == [Kind.TABLE, Kind.TABLE])


def is_whole_item(lines: list[str], kind: Kind) -> bool:
    """Whether the last line stands among its like, and ends as they do.

    Args:
        lines: the text's lines, the last one not blank.
        kind: what the last line is: an item, `key: value`, or a plain one, which may be verse.
    """
    near = lines[-1 - _NEAR : -1]
    if kind is Kind.PLAIN:
        near = near[-2:]
        return len(near) == 2 and all(line.strip() and len(line) <= _VERSE for line in (*near, lines[-1]))
    like = [line for line in near if kind_of(line) is kind]
    if kind is Kind.KEY and not (near and kind_of(near[-1]) is Kind.KEY):
        return False
    return bool(like)


def heads_a_list(lines: list[str]) -> bool:
    """Whether the last line is a numbered one like one before it that has a list of its own below it."""
    if not _NUMBERED.match(lines[-1]):
        return False
    below: list[Kind] = []
    for line in filter(str.strip, reversed(lines[-1 - _NEAR : -1])):
        if _NUMBERED.match(line):
            return bool(below) and all(kind is Kind.LIST for kind in below)
        below.append(kind_of(line))
    return False


def is_code(lines: list[str]) -> bool:
    """Whether the last line stands in indented code, where no sentence ends but in a comment."""
    last = lines[-1]
    if not last.startswith(("    ", "\t")) or len(lines) < 2 or _COMMENT.match(last):
        return False
    return _CODE.match(lines[-2].rstrip()) is not None


def ends_statement(line: str) -> bool:
    """Whether the line ends with a statement of code or SQL, which its semicolon closes."""
    return line.endswith(";") and _STATEMENT.search(line) is not None


def begins_clause(line: str) -> bool:
    """Whether the line ends with a word of SQL that something must follow."""
    return line[-1:].isupper() and _CLAUSE.search(line) is not None


def siblings_end_sentences(lines: list[str], kind: Kind) -> bool:
    """Whether the items before the last line all end with a full stop or its like, so that it should as well."""
    like = [line.rstrip() for line in lines[-1 - _NEAR : -1] if kind_of(line) is kind]
    return len(like) > 1 and all(line[-1:] in ".!?。！？।" for line in like)
