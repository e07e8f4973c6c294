"""The pool of KV pages: what is shared, what is never shared, and in which order pages are used again."""

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
