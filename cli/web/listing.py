"""Which rows a request asks for, and the links to those before and behind."""

from collections.abc import Mapping
from urllib.parse import urlencode

from endmark.db.browsing import KINDS, Found, Order, Wanted

ORDERS: Mapping[str, Order] = {"longest": "longest", "shortest": "shortest"}
_WORDS_MOST = 200  # characters to search for
_DIGITS_MOST = 15


def wanted_rows(query: Mapping[str, str]) -> Wanted:
    """Return which rows a request asks for; what it says wrongly counts as not said."""
    kind = query.get("ending", "")
    words = query.get("q", "").replace("\0", "").strip()[:_WORDS_MOST]
    order = ORDERS.get(query.get("order", ""), "")
    before = None if order else _number(query.get("before", ""))
    tokens, dot, row = query.get("after", "").rpartition(".")
    after = _number(row) if not order or dot else None
    return Wanted(
        kind if kind in KINDS else "",
        words,
        order,
        key=after if before is None else before,
        key_tokens=_number(tokens) or 0,
        backwards=before is not None,
    )


def _number(text: str) -> int | None:
    """Return the number that a text is; None if it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MOST else None


def links_of(found: Found, wanted: Wanted) -> Mapping[str, str | None]:
    """Return the links to the first rows, to those before and to those behind; None where there are none."""
    edges = (found.rows[0].row, found.rows[-1].row) if found.rows else (None, None)
    first = _link(wanted)
    if wanted.backwards:
        return {
            "first": first,
            "before": _link(wanted, before=found.looked_to),
            "after": _link(wanted, after=edges[1]),
        }
    if wanted.order:
        last = found.rows[-1] if found.rows and found.looked_to is not None else None
        after = None if last is None else _link(wanted, after=f"{last.tokens}.{last.row}")
        return {"first": first, "before": None, "after": after}
    before = edges[0] if wanted.key is not None else None
    return {"first": first, "before": _link(wanted, before=before), "after": _link(wanted, after=found.looked_to)}


def _link(wanted: Wanted, **key: object) -> str | None:
    """Return the link to other rows of those wanted; None where it would lead to none."""
    if None in key.values() or key.get("before") == 0:
        return None
    asked = {"ending": wanted.kind, "q": wanted.words, "order": wanted.order}
    values = {name: value for name, value in asked.items() if value} | key
    return f"?{urlencode(values)}#rows"
