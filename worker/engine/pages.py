"""The pool of KV pages: taken as rows grow, shared between rows whose prompts begin alike.

A full page of a prompt is known by the chain of all tokens up to its end. A page that nobody uses keeps its
content until it is taken for something else, so a system prompt stays computed between rows.
"""

from collections import OrderedDict
from collections.abc import Sequence


class PagePool:
    """Hands out page numbers; holds no tensor."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.num_pages = num_pages
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_pages))
        self._users = [0] * num_pages
        self._chain_of: dict[int, int] = {}  # page -> chain hash of the tokens up to its end
        self._page_of: dict[int, int] = {}  # chain hash -> page

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
            chain = self._chain_of.pop(page, None)
            if chain is not None and self._page_of.get(chain) == page:
                del self._page_of[chain]
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
        chain = 0
        for begin in range(0, len(token_ids) - self.page_size, self.page_size):
            chain = hash((chain, tuple(token_ids[begin : begin + self.page_size])))
            page = self._page_of.get(chain)
            if page is None:
                break
            shared.append(page)
            self._users[page] += 1
            self._free.pop(page, None)
        return shared

    def publish_prefix(self, token_ids: Sequence[int], pages: Sequence[int]) -> None:
        """Make the full pages of a prompt known, so that later rows can share them."""
        chain = 0
        for index in range(len(token_ids) // self.page_size):
            begin = index * self.page_size
            chain = hash((chain, tuple(token_ids[begin : begin + self.page_size])))
            if chain not in self._page_of:
                page = pages[index]
                previous = self._chain_of.get(page)
                if previous is not None and self._page_of.get(previous) == page:
                    del self._page_of[previous]
                self._page_of[chain] = page
                self._chain_of[page] = chain
