"""The pool of KV pages: taken as rows grow, shared between rows whose prompts begin alike.

A full page of a prompt is known by its own tokens and by the known page before it, so all tokens up to its end are
compared before it is shared. A page that nobody uses keeps its content until it is taken for something else, so a
system prompt stays computed between rows.
"""

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

_Key = tuple[int, tuple[int, ...]]  # the identity of the page before it, and its own tokens
_BEGIN = 0  # what stands before a prompt's first page


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

    def publish_prefix(self, token_ids: Sequence[int], pages: Sequence[int]) -> None:
        """Make the full pages of a prompt known, so that later rows can share them."""
        before = _BEGIN
        for index in range(len(token_ids) // self.page_size):
            begin = index * self.page_size
            key = before, tuple(token_ids[begin : begin + self.page_size])
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = _Known(next(self._identities), pages[index])
                self._key_of[known.page] = key
            before = known.identity
