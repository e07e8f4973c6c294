"""The pool of KV pages: taken as rows grow, shared between rows whose prompts begin alike.

A full page of a prompt is known by its own tokens and by the known page before it, so all tokens up to its end are
compared before it is shared. A page that nobody uses keeps its content until it is taken for something else, so a
system prompt stays computed between rows. Of a page that only begins alike the front can be copied.
"""

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

_Key = tuple[int, tuple[int, ...]]  # the identity of the page before it, and its own tokens
_BEGIN = 0  # what stands before a prompt's first page
_LATEST = 8  # pages behind the same one that are compared, the latest first


@dataclass(frozen=True, slots=True)
class _Known:
    """A page that later rows can share. Its identity is never given to another one, as the page's number is."""

    identity: int
    page: int


class PagePool:
    """Hands out page numbers; holds no tensor."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_pages))
        self._users = [0] * num_pages
        self._known: dict[_Key, _Known] = {}
        self._key_of: dict[int, _Key] = {}  # of each known page
        self._identities = itertools.count(_BEGIN + 1)
        # tokens of computed pages, full or not, by the identity before them and by page; the latest stand last
        self._fronts: dict[int, dict[int, tuple[int, ...]]] = {}
        self._before: dict[int, int] = {}  # that identity, of each of these pages

    @property
    def free(self) -> int:
        """Pages that can be taken."""
        return len(self._free)

    def pages_for(self, tokens: int) -> int:
        """Return how many pages that many tokens fill."""
        return -(-tokens // self.page_size)

    def take(self, count: int) -> list[int] | None:
        """Take pages for new content, the longest unused first; None if there are not enough."""
        if count > len(self._free):
            return None
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for page in taken:
            self._users[page] = 1
            key = self._key_of.pop(page, None)
            if key is not None:
                del self._known[key]
            self._forget_front(page)
        return taken

    def release(self, pages: Sequence[int]) -> None:
        """Give up one use of each page. A row's last pages become free first."""
        for page in reversed(pages):
            self._users[page] -= 1
            if self._users[page] == 0:
                self._free[page] = None

    def share_prefix(self, token_ids: Sequence[int]) -> list[int]:
        """Take a use of the pages that already hold the front of these tokens.

        At least one token is left out, so that there is something to compute the next one from.
        """
        shared: list[int] = []
        before = _BEGIN
        for begin in range(0, len(token_ids) - self.page_size, self.page_size):
            known = self._known.get((before, tuple(token_ids[begin : begin + self.page_size])))
            if known is None:
                break
            before = known.identity
            shared.append(known.page)
            self._users[known.page] += 1
            self._free.pop(known.page, None)
        return shared

    def hold_alike(self, token_ids: Sequence[int], shared: Sequence[int]) -> tuple[int, int]:
        """Take a use of a page whose front holds tokens behind the shared pages, for as long as it is copied from.

        At least one token is left out, as by `share_prefix`.

        Args:
            token_ids: of a row.
            shared: its full pages that are known.

        Returns:
            The page and how many of its tokens are alike; any page and 0 where there is none.
        """
        before = self._known[self._key_of[shared[-1]]].identity if shared else _BEGIN
        own = tuple(token_ids[len(shared) * self.page_size : -1][: self.page_size])
        latest = islice(reversed(self._fronts.get(before, {}).items()), _LATEST)
        tokens, page = max(((_alike(own, front), page) for page, front in latest), default=(0, 0))
        if tokens:
            self._users[page] += 1
            self._free.pop(page, None)
        return page, tokens

    def publish_prefix(self, token_ids: Sequence[int], pages: Sequence[int]) -> None:
        """Make the pages of a prompt known: later rows can share the full ones, and copy the front of any."""
        before = _BEGIN
        for index, begin in enumerate(range(0, len(token_ids), self.page_size)):
            own = tuple(token_ids[begin : begin + self.page_size])
            known = self._known.get((before, own))
            if known is None:
                self._note_front(before, own, pages[index])
                if len(own) < self.page_size:
                    return
                known = self._known[before, own] = _Known(next(self._identities), pages[index])
                self._key_of[known.page] = before, own
            before = known.identity

    def _note_front(self, before: int, tokens: tuple[int, ...], page: int) -> None:
        """Note what a page holds behind the page of an identity."""
        self._forget_front(page)
        self._fronts.setdefault(before, {})[page] = tokens
        self._before[page] = before

    def _forget_front(self, page: int) -> None:
        """Forget what a page holds."""
        before = self._before.pop(page, None)
        if before is not None:
            fronts = self._fronts[before]
            del fronts[page]
            if not fronts:
                del self._fronts[before]


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
