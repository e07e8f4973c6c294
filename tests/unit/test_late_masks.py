"""Rows whose masks depend on a token in flight: the step is computed meanwhile, and drawn once they are known."""

import numpy as np
import pytest

from endmark.jobs.vocabulary import FinishReason
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.engine.scripted import ScriptedRunner
from endmark.worker.engine.text import Vocabulary

pytestmark = pytest.mark.unit

EOS = 0
VOCABULARY = Vocabulary([b""] + [f"<{index}>".encode() for index in range(1, 128)])


class Counting:
    """A mask under which token `60 + n` alone may follow n others, but for what a test changes."""

    closes = steady = False

    def __init__(self, token_ids, budget, back_at=None, back=0, none_at=None):
        self.count, self.back_at, self.back, self.none_at = len(token_ids), back_at, back, none_at
        self.surplus = 0

    def see(self, token_id):
        assert token_id == 60 + self.count
        self.count += 1
        if self.count == self.back_at:
            self.surplus, self.back_at = self.back, None

    def start(self):
        pass

    def give_back(self):
        self.count -= self.surplus
        self.surplus = 0

    @property
    def refusal(self):
        return "no token may follow" if self.count == self.none_at else ""

    def words(self):
        bits = np.zeros(128, np.uint8)
        if not self.refusal:
            bits[60 + self.count] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)


def run(requests, *, overlaps):
    runner = ScriptedRunner(lambda tokens: 7, overlaps=overlaps, num_pages=400, prefill_tokens=400, eos_ids={EOS})
    engine = Engine(runner, VOCABULARY, {EOS})
    for request in requests:
        engine.add(request)
    done = {}
    while engine.has_work:
        done.update({finished.key: finished for finished in engine.step()})
    return done, engine


def row(key, budget=20, **mask):
    return Request(key, [1, 2, 3], budget, mask=lambda *given: Counting(*given, **mask))


def test_a_row_with_a_mask_takes_part_in_every_step():
    """It ran every other step: on a card, 256 rows with a schema were then 0.8 of the speed of none at best."""
    done, engine = run([row(key) for key in range(4)], overlaps=True)
    assert {finished.token_ids for finished in done.values()} == {tuple(range(60, 80))}
    assert engine.steps == 20


@pytest.mark.parametrize("overlaps", [False, True])
def test_what_a_mask_gives_back_is_drawn_again_with_a_step_in_flight(overlaps):
    rows = [row(0), row(1, back_at=9, back=3), row(2), row(3, back_at=1, back=1)]
    done, _ = run(rows, overlaps=overlaps)
    assert {finished.token_ids for finished in done.values()} == {tuple(range(60, 80))}
    assert len(done) == 4


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_row_that_no_token_may_follow_fails_alone(overlaps):
    done, _ = run([row(0), row(1, none_at=5), row(2, none_at=0)], overlaps=overlaps)
    assert done[0].token_ids == tuple(range(60, 80))
    assert [done[key].verdict.finish_reason for key in (1, 2)] == [FinishReason.ERROR] * 2
    assert done[1].verdict.error == "no token may follow"


@pytest.mark.parametrize("overlaps", [False, True])
def test_rows_that_come_later_and_rows_without_a_mask_change_nothing(overlaps):
    runner = ScriptedRunner(lambda tokens: 7, overlaps=overlaps, num_pages=400, prefill_tokens=400, max_rows=4)
    engine = Engine(runner, VOCABULARY, {EOS})
    done = {}
    for key in range(12):
        engine.add(row(key, budget=5 + key) if key % 3 else Request(key, [1, 2, 3], 4 + key))
        done.update({finished.key: finished for finished in engine.step()})
    while engine.has_work:
        done.update({finished.key: finished for finished in engine.step()})
    for key, finished in done.items():
        assert finished.token_ids == (tuple(range(60, 65 + key)) if key % 3 else (7,) * (4 + key))
    assert len(done) == 12


def test_a_row_with_a_mask_takes_part_in_the_steps_that_compute_prompts():
    """It missed each of them: where rows come and go, a fifth of the steps of rows with a schema."""
    runner = ScriptedRunner(lambda tokens: 7, overlaps=True, num_pages=400, prefill_tokens=400, max_rows=4)
    engine = Engine(runner, VOCABULARY, {EOS})
    engine.add(row(0))
    done = {}
    while 0 not in done:
        done.update({finished.key: finished for finished in engine.step()})
        engine.add(Request(engine.steps, [1, 2, 3], 1))
    assert done[0].token_ids == tuple(range(60, 80))
    assert engine.steps <= 22
    assert sum(bool(plan.prefill) for plan in runner.plans) > 15


def test_a_row_that_is_cancelled_while_its_mask_is_awaited_is_gone():
    runner = ScriptedRunner(lambda tokens: 7, overlaps=True, num_pages=400, prefill_tokens=400)
    engine = Engine(runner, VOCABULARY, {EOS})
    for request in (row(0), row(1)):
        engine.add(request)
    engine.step()
    engine.step()
    engine.cancel([1])
    done = {}
    while engine.has_work:
        done.update({finished.key: finished for finished in engine.step()})
    assert list(done) == [0]
    assert done[0].token_ids == tuple(range(60, 80))
