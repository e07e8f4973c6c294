"""Masks of all answers together: what the engine has drawn in a step is worked out in one batch, on one thread.

llguidance shares a batch out to threads that do not hold Python's lock; what is left for Python is done by one
thread, so that the engine's own waits for no more than one other.
"""

import itertools
import logging
import os
import weakref
from collections.abc import Callable, Sequence
from threading import Condition, Event, Thread
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from endmark.jobs.shapes.grammar import library
from endmark.worker.shapes.room import Lease, Memory, Room, Scratch, ordinary

log = logging.getLogger(__name__)
_MOST_THREADS = 4  # the masks of 256 rows are 5 ms of one core
_PAUSE = 0.003  # seconds
_FIRST = 64  # words of a mask, which mostly hold a bit: the others are in the caches of the cores that made them


class Maskable(Protocol):
    """An answer whose mask is made."""

    matcher: Any  # llguidance's, over tokens
    refusal: str
    closes: bool
    due: bool

    def begin(self, token_ids: Sequence[int]) -> bool:
        """Take the tokens with which the answer begins; return whether what may follow is to be worked out."""

    def follow(self, token_id: int, taken: bool) -> bool:
        """Go on with a token that the matcher was given; return whether what may follow is to be worked out."""

    def close(self, token_id: int) -> None:
        """Go on with a token where `closes`."""

    def show(self, words: NDArray[np.int32], lease: "Lease | None", *, some: bool) -> None:
        """Let those tokens follow whose bits are set, (ceil(V / 32),).

        Args:
            words: they stay as they are for as long as the lease is held; without one they are to be copied.
            some: whether there are any.
        """

    def look(self) -> None:
        """Do what is `due`, which no mask of this step depends on."""

    def refuse(self, reason: str) -> None:
        """Let no token follow."""

    @property
    def end_bits(self) -> NDArray[np.int32]:
        """The bits of all end tokens."""


class Batch:
    """Answers whose masks are made together."""

    def __init__(self, start: Callable[[], None]) -> None:
        self.begun: list[tuple[Maskable, tuple[int, ...]]] = []
        self.followed: list[tuple[Maskable, int]] = []
        self.done = Event()
        self._start = start

    def wait(self) -> None:
        """Wait until the masks are made."""
        if not self.done.is_set():
            self._start()
            self.done.wait()


class _Queue:
    """What waits for the thread."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.next = Batch(self.start)
        self.started = self.closed = False

    def start(self) -> None:
        """Let the thread take what waits for it, if anything does."""
        if self.started or not (self.next.begun or self.next.followed):
            return
        with self.changed:
            self.started = True
            self.changed.notify()

    def pause(self) -> None:
        """Leave Python's lock to the engine's thread for as long as that takes to send masks to its device."""
        with self.changed:
            self.changed.wait_for(lambda: self.started or self.closed, _PAUSE)

    def close(self) -> None:
        """Let the thread end once nothing waits for it."""
        with self.changed:
            self.closed = True
            self.changed.notify()

    def take(self) -> Batch | None:
        """Wait for a batch and return it; None once it is closed."""
        with self.changed:
            self.changed.wait_for(lambda: self.started or self.closed)
            batch, self.next, self.started = self.next, Batch(self.start), False
            return batch if batch.begun or batch.followed or not self.closed else None


class MaskMaker:
    """Takes what has been drawn, and makes masks on its thread until nobody holds it any more."""

    def __init__(self, memory: Memory | None = None) -> None:
        """Make the thread, which begins with the first answer.

        Args:
            memory: returns room for so many 32-bit words, where masks are made; any by default.
        """
        self.begun = itertools.count()  # answers so far
        self._queue = _Queue()
        room = Room(memory or ordinary)
        self._thread = Thread(target=_work, args=(self._queue, room), name="shapes", daemon=True)
        self._end = weakref.finalize(self, self._queue.close)

    def begin(self, mask: Maskable, token_ids: tuple[int, ...]) -> Batch:
        """Make the first mask of an answer; return the batch in which that is done."""
        queue = self._queue
        with queue.changed:
            if self._thread.ident is None:  # the first answer of all
                self._thread.start()
            queue.next.begun.append((mask, token_ids))
            queue.started = True
            queue.changed.notify()
            return queue.next

    def follow(self, mask: Maskable, token_id: int) -> Batch:
        """Make the mask behind one token more, once `start` is called or it is waited for; return the batch."""
        queue = self._queue
        with queue.changed:
            queue.next.followed.append((mask, token_id))
            return queue.next

    def start(self) -> None:
        """Begin with what has been asked for: all of a step, as one batch."""
        self._queue.start()


def _work(queue: _Queue, room: Room) -> None:
    """Make batches until the queue is closed."""
    executor = library("llguidance").LLExecutor(max(1, min(_MOST_THREADS, (os.cpu_count() or 2) - 1)))
    while (batch := queue.take()) is not None:
        _make(executor, batch, room)
        batch.done.set()
        _look(queue, batch)
        del batch  # its answers hold the maker, which is to end with them


def _look(queue: _Queue, batch: Batch) -> None:
    """Do what is due of a batch whose masks are made, until another one waits; the rest is due again with that."""
    due = [mask for mask, _ in batch.followed if mask.due]
    if due:
        queue.pause()
    for mask in due:
        if queue.started:
            return
        _guarded(mask, mask.look)


def _make(executor: Any, batch: Batch, room: Room) -> None:  # noqa: ANN401 - llguidance has no types
    """Make the masks of a batch."""
    try:
        begun = [mask for mask, token_ids in batch.begun if _guarded(mask, mask.begin, token_ids)]
        followed = _followed(executor, [item for item in batch.followed if not item[0].refusal])
        _draw_freely(executor, followed, room.lease())
        _draw_freely(executor, begun, room.scratch)  # which may wait long before it is read
    except Exception as error:
        log.exception("masks cannot be made")
        for mask, _ in (*batch.begun, *batch.followed):
            _refuse(mask, error)


def _guarded(mask: Maskable, work: Callable[..., bool | None], *given: Any) -> bool:  # noqa: ANN401
    """Do some work for an answer and return its result; where it raises, that row fails alone with the reason."""
    try:
        return bool(work(*given))
    except Exception as error:
        log.exception("a mask cannot be made")
        _refuse(mask, error)
        return False


def _refuse(mask: Maskable, error: Exception) -> None:
    """Let a row fail for what was raised."""
    mask.refuse(f"the mask of the answer's shape cannot be made: {type(error).__name__}: {error}")


def _followed(executor: Any, drawn: Sequence[tuple[Maskable, int]]) -> list[Maskable]:  # noqa: ANN401
    """Take a token more for each of some answers; return those whose next tokens are to be worked out."""
    for mask, token_id in drawn:
        if mask.closes:
            _guarded(mask, mask.close, token_id)
    still = [(mask, token_id) for mask, token_id in drawn if not (mask.closes or mask.refusal)]
    if not still:
        return []
    taken = executor.consume_token_par([(mask.matcher, token_id) for mask, token_id in still])
    return [
        mask
        for (mask, token_id), was_taken in zip(still, taken, strict=True)
        if _guarded(mask, mask.follow, token_id, was_taken)
    ]


def _draw_freely(executor: Any, masks: Sequence[Maskable], room: Lease | Scratch) -> None:  # noqa: ANN401
    """Let all follow that the shapes allow."""
    if not masks:
        return
    end_bits = masks[0].end_bits
    block = room.block(len(masks), len(end_bits))
    words = block.words[: len(masks)]
    going: list[tuple[Any, int]] = []
    for at, mask in enumerate(masks):
        if mask.matcher.is_stopped():
            words[at] = 0
        else:
            going.append((mask.matcher, at))
    if going:
        executor.unsafe_compute_mask_ptr(going, words.ctypes.data, words.shape[1] * words.itemsize, len(words))
    whole = np.array([mask.matcher.is_accepting() for mask in masks])
    for word in np.flatnonzero(end_bits).tolist():  # few words hold end tokens
        words[:, word] = np.where(whole, words[:, word] | end_bits[word], words[:, word] & ~end_bits[word])
    some = np.asarray(words[:, :_FIRST].any(1))
    for at in np.flatnonzero(~some).tolist():
        some[at] = words[at].any()
    lease = room if isinstance(room, Lease) else None
    for mask, row, any_of_them in zip(masks, block.rows, some.tolist(), strict=False):
        mask.show(row, lease, some=any_of_them)
