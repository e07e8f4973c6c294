"""The pool of KV pages: what is shared, what is never shared, and in which order pages are used again."""

import random

import pytest

from endmark.worker.engine.pages import PagePool

pytestmark = pytest.mark.unit


class Token(int):
    """A token whose hash is that of every other one, as in a prompt that somebody made so that hashes collide."""

    def __hash__(self):
        return 7


def prompt(*ids):
    return [Token(item) for item in ids]


def test_prompts_of_equal_hashes_share_only_equal_tokens():
    """A page was found by a hash alone: a prompt of the same hash was answered from another prompt's page."""
    pool = PagePool(8, 2)
    first = pool.take(2)
    pool.publish_prefix(prompt(1, 2, 3, 4), first)
    assert pool.share_prefix(prompt(5, 6, 3, 4, 9)) == []
    assert pool.share_prefix(prompt(1, 2, 5, 6, 9)) == first[:1]
    assert pool.share_prefix(prompt(1, 2, 3, 4, 9)) == first


def test_equal_pages_behind_unlike_ones_are_not_shared():
    pool = PagePool(8, 2)
    one, other = pool.take(2), pool.take(2)
    pool.publish_prefix([1, 2, 3, 4], one)
    pool.publish_prefix([5, 6, 3, 4], other)
    assert pool.share_prefix([1, 2, 3, 4, 9]) == one
    assert pool.share_prefix([5, 6, 3, 4, 9]) == other


@pytest.mark.parametrize("tokens", [2, 4, 6])
def test_a_prompt_of_whole_pages_leaves_one_to_compute(tokens):
    """Were all of it shared, there would be no token from which the next one is computed."""
    pool = PagePool(8, 2)
    prompt = list(range(1, tokens + 1))
    pages = pool.take(tokens // 2)
    pool.publish_prefix(prompt, pages)
    assert pool.share_prefix(prompt) == pages[:-1]
    assert pool.share_prefix([*prompt, 9]) == pages


def test_a_page_that_was_taken_for_something_else_is_known_no_more():
    pool = PagePool(3, 2)
    pages = pool.take(2)
    pool.publish_prefix([1, 2, 3, 4], pages)
    pool.release(pages)
    assert pool.share_prefix([1, 2, 3, 4, 5]) == pages
    pool.release(pages)
    pool.take(2)  # the one that was never used, and the prompt's last
    assert pool.share_prefix([1, 2, 3, 4, 5]) == pages[:1]
    pool.release(pages[:1])
    pool.take(1)
    assert pool.share_prefix([1, 2, 3, 4, 5]) == []


def test_a_page_behind_one_that_was_computed_again_is_not_shared_by_its_number():
    """The second page of `old` stands behind a page whose number now holds other tokens."""
    pool = PagePool(2, 2)
    old = pool.take(2)
    pool.publish_prefix([1, 2, 3, 4], old)
    pool.release(old[:1])
    assert pool.take(1) == old[:1]
    pool.publish_prefix([5, 6], old[:1])
    assert pool.share_prefix([5, 6, 3, 4, 9]) == old[:1]
    assert pool.share_prefix([1, 2, 3, 4, 9]) == []


def test_behind_a_page_that_is_not_known_nothing_is_shared():
    """A prompt that holds another one's begin further on would see that one's keys at the wrong positions."""
    pool = PagePool(4, 2)
    pool.publish_prefix([1, 2], pool.take(1))
    assert pool.share_prefix([9, 9, 1, 2, 5]) == []


def test_the_first_who_computes_a_page_is_the_one_it_is_shared_from():
    pool = PagePool(4, 2)
    first, second = pool.take(1), pool.take(1)
    pool.publish_prefix([1, 2], first)
    pool.publish_prefix([1, 2], second)
    assert pool.share_prefix([1, 2, 3]) == first
    pool.release(first)
    pool.release(second)
    pool.take(3)  # the two never used and the second: the first has a user
    assert pool.free == 0
    assert pool.share_prefix([1, 2, 3]) == first


def test_a_shared_page_is_free_when_its_last_user_has_left():
    pool = PagePool(2, 2)
    page = pool.take(1)
    pool.publish_prefix([1, 2], page)
    assert pool.share_prefix([1, 2, 3]) == page
    pool.release(page)
    assert pool.free == 1
    pool.release(page)
    assert pool.free == 2


def test_the_page_whose_front_is_alike_for_longest_is_copied_from():
    """What stands behind equal pages is compared, and a token is left out, as of whole pages."""
    pool = PagePool(8, 4)
    first, second, other = pool.take(2), pool.take(1), pool.take(2)
    pool.publish_prefix([1, 2, 3, 4, 5, 6, 7], first)
    pool.publish_prefix([1, 2, 3, 4, 5, 9], [first[0], *second])
    pool.publish_prefix([8, 2, 3, 4, 5, 6, 7], other)
    assert pool.hold_alike([1, 2, 3, 4, 5, 6, 7, 8], first[:1]) == (first[1], 3)
    assert pool.hold_alike([1, 2, 3, 4, 5, 6, 7], first[:1]) == (first[1], 2)
    assert pool.hold_alike([1, 2, 3, 4, 5, 9, 9], first[:1]) == (second[0], 2)
    assert pool.hold_alike([8, 2, 3], []) == (other[0], 2)
    assert pool.hold_alike([7, 2, 3, 4], [])[1] == 0


def test_a_page_is_not_taken_while_it_is_copied_from():
    pool = PagePool(2, 4)
    pages = pool.take(1)
    pool.publish_prefix([1, 2, 3], pages)
    pool.release(pages)
    page, tokens = pool.hold_alike([1, 2, 3, 4], [])
    assert ([page], tokens) == (pages, 3)
    assert pool.take(2) is None
    pool.release([page])
    assert sorted(pool.take(2)) == [0, 1]
    assert pool.hold_alike([1, 2, 3, 4], [])[1] == 0, "it holds something else now"


def test_too_many_pages_are_not_taken_in_part():
    pool = PagePool(3, 2)
    assert pool.take(4) is None
    assert pool.free == 3
    assert pool.take(3) == [0, 1, 2]
    assert pool.take(0) == []
    assert pool.take(1) is None


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2)])
def test_pages_for(tokens, pages):
    assert PagePool(1, 4).pages_for(tokens) == pages


class Plain:
    """What the pool does, said plainly: every page with all the tokens up to its end, and no keys.

    A page is found by the tokens up to its end, for as long as it and the known ones before it hold them.
    """

    def __init__(self, pages, size):
        self.size, self.users, self.order = size, [0] * pages, list(range(pages))  # free ones, the next first
        self.known = {}  # by the known page before (None at the begin) and its own tokens: page
        self.fronts = []  # (known page before, tokens, page), the latest last

    def forget(self, page):
        self.fronts = [item for item in self.fronts if item[2] != page]

    def take(self, count):
        if count > len(self.order):
            return None
        taken, self.order = self.order[:count], self.order[count:]
        for page in taken:
            self.users[page] = 1
            self.forget(page)
            self.known = {key: other for key, other in self.known.items() if other[1] != page}
        return taken

    def release(self, pages):
        for page in reversed(pages):
            self.users[page] -= 1
            if not self.users[page]:
                self.order.append(page)

    def use(self, page):
        self.users[page] += 1
        if page in self.order:
            self.order.remove(page)

    def chain(self, tokens):
        before, found = None, []
        for at in range(0, len(tokens) - self.size + 1, self.size):
            item = self.known.get((before, tuple(tokens[at : at + self.size])))
            if item is None:
                break
            found.append(item)
            before = item
        return found

    def share_prefix(self, tokens):
        pages = [page for _, page in self.chain(tokens[:-1])]
        for page in pages:
            self.use(page)
        return pages

    def hold_alike(self, tokens, shared):
        before = self.chain(tokens)[len(shared) - 1] if shared else None
        own = tokens[len(shared) * self.size : -1][: self.size]
        alike = []
        for _, front, page in [item for item in self.fronts if item[0] == before][-8:]:
            count = 0
            while count < min(len(own), len(front)) and own[count] == front[count]:
                count += 1
            alike.append((count, page))
        count, page = max(alike, default=(0, 0))
        if count:
            self.use(page)
        return page, count

    def publish_prefix(self, tokens, pages):
        before = None
        for index, at in enumerate(range(0, len(tokens), self.size)):
            own = tuple(tokens[at : at + self.size])
            if (before, own) not in self.known:
                self.forget(pages[index])
                self.fronts.append((before, own, pages[index]))
                if len(own) < self.size:
                    return
                self.known[before, own] = (object(), pages[index])
            before = self.known[before, own]


@pytest.mark.parametrize("seed", range(12))
def test_the_pool_does_what_a_plain_one_does(seed):
    """Rows come, share, copy, grow and go as in the scheduler; prompts of two tokens, so that most begin alike."""
    rng = random.Random(seed)
    size, count = rng.choice([(2, 9), (3, 12), (4, 24), (4, 60)])
    pool, plain = PagePool(count, size), Plain(count, size)
    rows = []
    for _ in range(250):
        assert pool.free == len(plain.order)
        assert pool._users == plain.users
        if rows and rng.random() < 0.45:
            tokens, pages = rows.pop(rng.randrange(len(rows)))
            if rng.random() < 0.5:
                pool.publish_prefix(tokens, pages)
                plain.publish_prefix(tokens, pages)
            pool.release(pages)
            plain.release(pages)
            continue
        tokens = [rng.randrange(2) for _ in range(rng.randrange(1, 6 * size))]
        shared = pool.share_prefix(tokens)
        assert shared == plain.share_prefix(tokens)
        page, alike = pool.hold_alike(tokens, shared)
        assert (alike, page if alike else 0) == (
            (found := plain.hold_alike(tokens, shared))[1],
            found[0] * bool(alike),
        )
        taken = pool.take(pool.pages_for(len(tokens)) - len(shared))
        assert taken == plain.take(-(-len(tokens) // size) - len(shared))
        for one in (pool, plain):
            one.release([page] * bool(alike))
            if taken is None:
                one.release(shared)
            else:
                one.publish_prefix(tokens, shared + taken)
        if taken is not None:
            rows.append((tokens, shared + taken))
