"""Which jobs or rows a request asks for, and the links to those before and behind."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from endmark.db.browsing import KINDS, Found, Order, Wanted

ORDERS: Mapping[str, Order] = {"longest": "longest", "shortest": "shortest"}
JOBS = 25  # on a page
BEFORE = "had"  # in a query: the rows with a result that there were for a list when it was shown
_WORDS_MOST = 200  # characters to search for
_DIGITS_MOST = 15


@dataclass(frozen=True, slots=True)
class WantedJobs:
    """Which jobs a list shows."""

    words: str = ""  # in the name, or at the begin of the id
    first: int = 0  # how many are passed over

    @property
    def query(self) -> str:
        """The query that asks for them, with its question mark; empty where all are wanted."""
        values = {name: value for name, value in (("q", self.words), ("from", self.first)) if value}
        return f"?{urlencode(values)}" if values else ""

    def links(self, total: int) -> Mapping[str, str | None]:
        """Return the links to the jobs before and behind, of so many in all; None where there are none."""
        before = WantedJobs(self.words, max(0, self.first - JOBS)).query
        after = WantedJobs(self.words, self.first + JOBS).query
        return {
            "before": f"/{before}" if self.first else None,
            "after": f"/{after}" if self.first + JOBS < total else None,
        }


def wanted_jobs(query: Mapping[str, str]) -> WantedJobs:
    """Return which jobs a request asks for; what it says wrongly counts as not said."""
    return WantedJobs(_words(query), number(query.get("from", "")) or 0)


def wanted_rows(query: Mapping[str, str]) -> Wanted:
    """Return which rows a request asks for; what it says wrongly counts as not said."""
    kind = query.get("ending", "")
    order = ORDERS.get(query.get("order", ""), "")
    before = None if order else number(query.get("before", ""))
    tokens, dot, row = query.get("after", "").rpartition(".")
    after = number(row) if not order or dot else None
    return Wanted(
        kind if kind in KINDS else "",
        _words(query),
        order,
        key=after if before is None else before,
        key_tokens=number(tokens) or 0,
        backwards=before is not None,
    )


def _words(query: Mapping[str, str]) -> str:
    """Return the words that a request searches for."""
    return query.get("q", "").replace("\0", "").strip()[:_WORDS_MOST]


def number(text: str) -> int | None:
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
