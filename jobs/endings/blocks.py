"""Blocks: fences, LaTeX, tags, brackets, a shell's; and whether a text ends inside one or right behind it."""

import re

_FENCE = re.compile(r"^[ \t>]*(?:[-*+]\s+|\d+[.)]\s+)?(`{3,}|~{3,})([^`\n]*)$", re.MULTILINE)
_MARK = re.compile(r"```|~~~")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_OPENING_LINE = re.compile(r"[{\[]\s*$", re.MULTILINE)
_ROUND_OPENING = "(\n"
_LISTED = re.compile(r"^[ \t]*\w{1,3}\)", re.MULTILINE)  # such as `a)`
_VALUE = re.compile(r"[\[{].*[\]}],?;?\Z", re.DOTALL)
_SHELL_OPENS = re.compile(r"^[ \t]*(?:(?:for|while|until|if|elif)\b[^\n]*; *)?(do|then)[ \t]*$", re.MULTILINE)
_SHELL_CLOSES = re.compile(r"^[ \t]*(?:done|fi|elif)\b", re.MULTILINE)
_ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{")
_ENVIRONMENT_END = re.compile(r"\\end\s*\{[^{}\n]*\}\Z")
_TAG = re.compile(r"<(/?)([A-Za-z][\w:-]*)(?:\s[^<>]*?)?(/?)>")
_TAG_BEGUN = re.compile(r"(?:^|[\s>])<[/?!]?[A-Za-z][^<>]*\Z")
_CLOSED = re.compile(r"</[A-Za-z][\w:-]*\s*>\Z")
_UNPAIRED = frozenset("area base br col embed hr img input li link meta option p source td th tr wbr".split())


def in_or_behind_block(text: str) -> bool | None:
    """Return True where the text ends inside a block, False right behind one that closed, None elsewhere.

    Args:
        text: an answer without white space at its end.
    """
    if "```" in text or "~~~" in text:
        fenced, end = _fenced(text)
        if fenced is not None:
            return fenced
        text = text[end:]  # what a fence has closed over is read no further: its brackets need not be in pairs
    for marks, look in (("\\", _latex), ("$$", _formula), ("<", _tagged), ("(", _round), ("; ", _shell)):
        if marks in text and (found := look(text)) is not None:
            return found
    return _bracketed(text)


def _fenced(text: str) -> tuple[bool | None, int]:
    """See `in_or_behind_block`, for code fences: a mark with a language opens one, the same mark closes it.

    One with nothing in it is as good as open where the text ends. Also returns where the last closed one ends; 0
    without one.
    """
    inside, begun, end, seen, empty = "", 0, 0, -1, False
    for place in _MARK.finditer(text):
        begin = text.rfind("\n", 0, place.start()) + 1
        match = _FENCE.match(text, begin) if begin > seen else None
        seen = begin
        if match is None:
            continue
        mark, language = match[1], match[2].strip()
        if not inside:
            inside, begun = mark, match.end()
        elif mark.startswith(inside) and not language:
            inside, end, empty = "", match.end(), not text[begun:begin].strip()
    return (True if inside or (empty and end == len(text)) else False if end == len(text) else None), end


def _latex(text: str) -> bool | None:
    """See `in_or_behind_block`, for environments and display formulas."""
    kinds = _ENVIRONMENT.findall(text)
    depth = kinds.count("begin") - kinds.count("end")
    if depth > 0 or text.count("\\[") > text.count("\\]") or text.count("\\(") > text.count("\\)"):
        return True
    return False if _ENVIRONMENT_END.search(text) or text.endswith("\\]") else None


def _formula(text: str) -> bool | None:
    """See `in_or_behind_block`, for formulas between two double dollars."""
    if text.count("$$") % 2:
        return True
    return False if text.endswith("$$") else None


def _tagged(text: str) -> bool | None:
    """See `in_or_behind_block`, for HTML and XML; tags that need no end are left out."""
    last = text[text.rfind("\n") + 1 :].lstrip()
    if _TAG_BEGUN.search(last):
        return True
    depth = 0
    for slash, name, alone in _TAG.findall(text):
        if not alone and name.lower() not in _UNPAIRED:
            depth += -1 if slash else 1
    if depth > 0 and (last[0] == "<" or text[-1] == ">"):
        return True
    return False if text[-1] == ">" and _CLOSED.search(text) and last[0] == "<" else None


def _round(text: str) -> bool | None:
    """See `in_or_behind_block`, for what stands on lines of its own between round brackets, as in SQL."""
    opening = text.find(_ROUND_OPENING)
    if opening < 0:
        return None
    bare = _LISTED.sub("", _STRING.sub('""', text[opening:]))
    depth = bare.count("(") - bare.count(")")
    if depth > 0:
        return True
    return False if depth == 0 and bare.rstrip(";")[-1] == ")" and "\n" in bare else None


def _shell(text: str) -> bool | None:
    """See `in_or_behind_block`, for `do` and `then` of a shell, which `done` and `fi` close."""
    opened = len(_SHELL_OPENS.findall(text))
    if not opened:
        return None
    closed = list(_SHELL_CLOSES.finditer(text))
    if opened > len(closed):
        return True
    return False if "\n" not in text[closed[-1].start() :].lstrip() else None


def _bracketed(text: str) -> bool | None:
    """See `in_or_behind_block`, for values and code in brackets that stand on lines of their own."""
    if "{" not in text and "[" not in text:
        return None
    begins_value = text.lstrip()[:1] in ("{", "[")
    if not (begins_value or text[-1] in "}];" or _OPENING_LINE.search(text)):
        return None
    bare = _STRING.sub('""', text)
    depth = bare.count("{") + bare.count("[") - bare.count("}") - bare.count("]")
    if depth > 0:
        return True
    if text[-1] not in "}];" or depth < 0:
        return None
    start = _opening(bare)
    inside = bare[start:] if start >= 0 else ""
    own_line = start >= 0 and not bare[bare.rfind("\n", 0, start) + 1 : start].strip()
    telling = ',:"\n' if inside.startswith("{") else ',"\n'  # `[10:30]` is a time
    value = own_line and any(sign in inside for sign in telling) and _VALUE.match(inside) is not None
    return False if value or "\n" in inside else None


def _opening(text: str) -> int:
    """Return where the bracket opens that is the last one to close; -1 where there is none."""
    depth = 0
    for index in range(len(text.rstrip(";")) - 1, -1, -1):
        char = text[index]
        if char in "}]":
            depth += 1
        elif char in "{[":
            depth -= 1
            if depth == 0:
                return index
        elif depth == 0:
            return -1
    return -1
