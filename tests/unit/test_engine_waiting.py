"""The rows that wait: their order, also when some are dropped, and what dropping costs."""

import gc
import random
import sys
import weakref

import pytest

from endmark.worker.engine import waiting as room
from endmark.worker.engine.answer import Answer
from endmark.worker.engine.request import Request
from endmark.worker.engine.row import RowState
from endmark.worker.engine.text import Vocabulary
from endmark.worker.engine.waiting import WaitingRows

pytestmark = pytest.mark.unit

VOCABULARY = Vocabulary([b"x"] * 4)


def make_row(key, budget=9):
    return RowState(Answer(Request(key=key, prompt_token_ids=[1], max_new_tokens=budget), VOCABULARY, budget))


def admit_all(waiting):
    order = []
    while waiting:
        order.append(waiting.first)
        waiting.admit()
    return order


@pytest.mark.parametrize("dropped", range(7))
def test_any_row_may_be_dropped_and_the_others_keep_their_order(dropped):
    """Taking an entry out of a heap leaves its order undone: a later row was admitted first."""
    waiting = WaitingRows(4)
    rows = [make_row(key, budget) for key, budget in enumerate([3, 9, 5, 9, 1, 7, 2])]
    for row in rows:
        waiting.add(row)
    waiting.drop(rows[dropped])
    left = sorted((row for row in rows if row is not rows[dropped]), key=lambda row: -row.budget)
    assert len(waiting) == 6
    assert set(waiting) == set(left)
    assert admit_all(waiting) == left


def test_a_dropped_row_is_never_the_first():
    waiting = WaitingRows(4)
    first, second = make_row(0, 9), make_row(1, 5)
    waiting.add(first)
    waiting.add(second)
    waiting.drop(first)
    assert waiting.first is second
    waiting.drop(second)
    assert not waiting
    waiting.add(third := make_row(2, 1))
    assert waiting.first is third


def test_a_preempted_row_can_be_dropped():
    waiting = WaitingRows(4)
    rows = [make_row(key) for key in range(3)]
    waiting.add(rows[0])
    waiting.put_back(rows[1])
    waiting.put_back(rows[2])
    waiting.drop(rows[2])
    assert admit_all(waiting) == [rows[1], rows[0]]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_holds_when_most_rows_are_dropped_at_once(seed):
    rng = random.Random(seed)
    waiting = WaitingRows(4)
    rows = [make_row(key, rng.randrange(1, 10_000)) for key in range(400)]
    for row in rows:
        waiting.add(row)
    dropped = set(rng.sample(range(400), 350))
    for index in dropped:
        waiting.drop(rows[index])
    left = [row for index, row in enumerate(rows) if index not in dropped]
    assert admit_all(waiting) == sorted(left, key=lambda row: -row.budget)


def test_dropped_rows_are_let_go_of_while_another_is_the_first():
    """Else a cancelled job of a million rows stays in memory for as long as one row waits before it."""
    waiting = WaitingRows(4)
    waiting.add(make_row(0, 900))
    rows = [make_row(key) for key in range(1, 1001)]
    for row in rows:
        waiting.add(row)
    kept = [weakref.ref(row) for row in rows]
    while rows:
        waiting.drop(rows.pop())
    del row
    gc.collect()
    assert sum(ref() is not None for ref in kept) < 100
    assert len(waiting) == 1


@pytest.mark.parametrize("batch", [1, 4, 512])
@pytest.mark.parametrize("admitted", [0, 1, 5])
def test_a_batch_that_was_admitted_meanwhile_weighs_as_much_as_128_tokens(batch, admitted):
    """A row that comes later is overtaken by that much, and not at all by one that came with it."""
    for more, is_first in ((0, False), (1, True)):
        waiting = WaitingRows(batch)
        for key in range(admitted):
            waiting.add(make_row(key, 10_000))
            waiting.admit()
        earlier = WaitingRows(batch)
        earlier.add(early := make_row(98, 10))
        for key in range(admitted):
            earlier.add(make_row(key, 10_000))
            earlier.admit()
        late = make_row(99, 10 + admitted * 128 // batch + more)
        earlier.add(late)
        exact = admitted * 128 % batch == 0
        assert earlier.first is (late if is_first else early) or not exact
        waiting.add(late)
        waiting.add(make_row(97, late.budget))
        assert waiting.first is late, "of equal ones the first to come"


@pytest.mark.parametrize("count", [100, 301])
def test_the_heap_holds_no_more_dropped_rows_than_it_may(count):
    """Twice the rows that wait and 64 more; it is made anew where there would be one too many, and only there."""
    waiting = WaitingRows(4)
    rows = [make_row(key) for key in range(count)]
    for row in rows:
        waiting.add(row)
    entries = count
    for left in range(count - 1, 0, -1):
        waiting.drop(rows.pop())
        if entries > 2 * left + 64:
            entries = left
        assert len(waiting._heap) == entries


def test_prompts_are_counted_for_as_long_as_their_rows_wait():
    waiting = WaitingRows(4)
    rows = [RowState(Answer(Request(key, [1] * (key + 1), 9), VOCABULARY, 9)) for key in range(5)]
    for row in rows:
        waiting.add(row)
    assert waiting.tokens == 15
    waiting.drop(rows[1])
    waiting.admit()
    assert waiting.tokens == 15 - 2 - 1
    waiting.put_back(rows[1])
    assert (waiting.tokens, waiting.first, len(waiting)) == (14, rows[1], 4)


class Counted(int):
    """A budget that counts how often its place in the order is compared."""

    compared = 0

    def __rsub__(self, other):
        return CountedPlace(other - int(self))


class CountedPlace(float):
    def __eq__(self, other):
        Counted.compared += 1
        return float(self) == float(other)

    __hash__ = float.__hash__

    def __lt__(self, other):
        return float(self) < float(other)


def count_work(action):
    """Return how many bytecode instructions of `waiting.py` an action takes, and comparisons in the heap."""
    Counted.compared, done = 0, 0

    def trace(frame, event, argument):
        nonlocal done
        if frame.f_code.co_filename != room.__file__:
            return None
        frame.f_trace_opcodes = True
        done += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return done + Counted.compared


@pytest.mark.parametrize("order", [1, -1], ids=["from the front", "from the back"])
def test_dropping_a_row_costs_the_same_however_many_wait(order):
    """Cancelling a shard of 1,000 rows rebuilt a heap a thousand times, between two of the engine's steps."""
    work = {}
    for count in (100, 1600):
        waiting = WaitingRows(4)
        rows = [make_row(key) for key in range(count)]
        for row in rows:
            row.answer.budget = Counted(9)
            waiting.add(row)

        def drop_all(waiting=waiting, rows=rows):
            for row in rows[::order]:
                waiting.drop(row)

        work[count] = count_work(drop_all) / count
        assert not waiting
    assert work[1600] < 2 * work[100], work
    assert work[1600] < 300
