"""Masks that are made together are those that each answer would get alone, and fail alone."""

import os

import numpy as np
import pytest

from endmark.jobs.shapes import ShapeKind, read_shape
from endmark.worker.engine.text import Vocabulary
from endmark.worker.shapes import making
from endmark.worker.shapes.compiled import Shapes
from endmark.worker.shapes.mask import ShapeMask

pytestmark = pytest.mark.engine

BYTES = Vocabulary([*(bytes([value]) for value in range(256)), b""])
END = 256


def made(*patterns, budget=40):
    shapes = Shapes(BYTES, {END})
    return [shapes.maker(read_shape(ShapeKind.REGEX, pattern, "shape"))((), budget) for pattern in patterns]


def allowed(mask):
    bits = np.unpackbits(mask.words().view(np.uint8), bitorder="little")
    return bytes(token for token in np.flatnonzero(bits) if token < 256), bool(bits[END])


def test_a_batch_gives_each_answer_its_own_mask():
    """Twenty answers of three shapes, told their tokens in one go, so that they stand in one batch."""
    masks = made(*["[ab]c*d", "x[0-9]{2}", "(yes|no)"] * 7)
    for mask in masks:
        mask.words()
    for at, mask in enumerate(masks):
        mask.see(b"ax"[at % 3] if at % 3 < 2 else b"yn"[at % 2])
    for at, mask in enumerate(masks):
        want = [(b"cd", False), (b"0123456789", False), (b"e" if at % 2 == 0 else b"o", False)][at % 3]
        assert allowed(mask) == want, at


def test_an_answer_ends_where_its_shape_is_whole():
    (mask,) = made("ab?")
    mask.words()
    mask.see(ord("a"))
    assert allowed(mask) == (b"b", True)


def test_what_one_answer_raises_fails_that_row_alone(monkeypatch):
    """A bug that shows in one answer took the masks of all others with it."""
    broken, sound = made("a*b", "a*b")
    broken.words(), sound.words()
    follow = ShapeMask.follow

    def raises(mask, token_id, taken):
        if mask is broken:
            raise ZeroDivisionError("a bug")
        return follow(mask, token_id, taken)

    monkeypatch.setattr(ShapeMask, "follow", raises)
    broken.see(ord("a")), sound.see(ord("a"))
    assert allowed(sound) == (b"ab", False)
    assert allowed(broken) == (b"", False)
    assert broken.refusal == "the mask of the answer's shape cannot be made: ZeroDivisionError: a bug"


def test_a_token_outside_the_shape_is_the_rows_reason():
    (mask,) = made("ab")
    mask.words()
    mask.see(ord("z"))
    assert allowed(mask) == (b"", False)
    assert "has left its shape" in mask.refusal


def test_the_thread_ends_with_the_shapes_that_it_serves():
    """A worker loads one model, a test hundreds: no thread may outlive its masks."""
    import gc
    import threading

    shapes = Shapes(BYTES, {END})
    before = set(threading.enumerate())
    shapes.maker(read_shape(ShapeKind.REGEX, "a", "shape"))((), 9).words()
    (thread,) = set(threading.enumerate()) - before
    del shapes
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_answers_that_begin_together_are_looked_at_apart(monkeypatch):
    """All of a batch were looked at in one step, which a card waited for: 7 ms with 256 rows, 60 at the end."""
    masks = made(*["a*b"] * 16, budget=200)
    at, looked = [0], []
    check = ShapeMask._check
    monkeypatch.setattr(ShapeMask, "_check", lambda mask: looked.append(at[0]) or check(mask))
    for mask in masks:
        mask.words()
    for at[0] in range(40):
        for mask in masks:
            mask.see(ord("a"))
        for mask in masks:
            mask.words()
    assert len(looked) >= 16
    assert max(map(looked.count, looked)) <= 4


def test_a_check_that_comes_late_and_finds_no_way_gives_back_what_came_since():
    """Behind the eighth `a` only a way of 60 bytes ends the answer, and 40 tokens are left."""
    (mask,) = made("a{0,7}b|a{8}c{60}", budget=40)
    taken = 0
    while not mask.closes:
        assert allowed(mask)[0]
        if mask.surplus:
            taken -= mask.surplus
            mask.give_back()
        else:
            mask.see(ord("a" if taken < 8 else "c"))
            taken += 1
    assert taken <= 7
    mask.see(ord("b"))
    assert allowed(mask) == (b"", True)


def test_behind_the_last_moment_to_close_the_way_alone_counts_and_the_grammar_is_not_asked():
    """256 rows that closed together kept a step waiting for 14 ms: each token was given to a matcher still."""
    way, other = made("a*bcd", "a*bcd", budget=4)
    assert allowed(way) == allowed(other) == (b"b", False)
    way.matcher = None
    for token, follows in ((ord("b"), (b"c", False)), (ord("c"), (b"d", False)), (ord("d"), (b"", True))):
        way.see(token)
        assert allowed(way) == follows
    other.see(ord("c"))
    assert allowed(other) == (b"", False)
    assert "has left its shape" in other.refusal


def test_what_the_answers_of_a_step_have_seen_is_one_batch(monkeypatch):
    """The thread woke at the first answer that was told its token, and made a few masks at a time."""
    made_together = []
    make = making._make
    monkeypatch.setattr(
        making, "_make", lambda _, batch, *rest: made_together.append(len(batch.followed)) or make(_, batch, *rest)
    )
    shapes = Shapes(BYTES, {END})
    maker = shapes.maker(read_shape(ShapeKind.REGEX, "a*b", "shape"))
    masks = [maker((), 40) for _ in range(32)]
    for mask in masks:
        mask.words()
    for _ in range(3):
        for mask in masks:
            mask.see(ord("a"))
            os.sched_yield()
        for mask in masks:
            mask.start()
        for mask in masks:
            assert allowed(mask) == (b"ab", False)
    assert [count for count in made_together if count] == [32, 32, 32]


def test_masks_stand_where_they_were_made_until_each_answer_has_its_next():
    """They were copied twice on their way to a card, by cores that had not made them: 4 ms of a step."""
    rooms = []

    def memory(count):
        rooms.append(np.zeros(count, np.int32))
        return rooms[-1]

    maker = Shapes(BYTES, {END}, memory=memory).maker(read_shape(ShapeKind.REGEX, "[ab]*c", "shape"))
    masks = [maker((), 60) for _ in range(4)]
    for mask in masks:
        mask.words()
    assert rooms == [], "what may wait long before it is read is copied"
    for step in range(12):
        for mask in masks[: 3 if step == 5 else 4]:  # the last waits, as a row that was sent back does
            mask.see(ord("a"))
        for mask in masks:
            assert allowed(mask) == (b"abc", False)
        assert all(any(mask.words().base is room for room in rooms) for mask in masks)
    assert len(rooms) <= 3


def test_masks_of_answers_that_wait_do_not_pile_up():
    """Each would keep the memory of all the masks that were made with it."""
    rooms = []
    shapes = Shapes(BYTES, {END}, memory=lambda count: rooms.append(count) or np.zeros(count, np.int32))
    maker = shapes.maker(read_shape(ShapeKind.REGEX, "[ab]*c", "shape"))
    waiting = [maker((), 60) for _ in range(30)]
    for mask in waiting:
        mask.see(ord("a"))
        assert allowed(mask) == (b"abc", False)
    assert len(rooms) == 8
    assert all(allowed(mask) == (b"abc", False) for mask in waiting)
