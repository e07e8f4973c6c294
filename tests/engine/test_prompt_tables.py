"""The tables that captured steps with prompts read: what a pass has to do, and nothing behind it."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux alone")

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers
from endmark.worker.engine.cuda import prompt_steps
from endmark.worker.engine.cuda.decode import DecodeInputs
from endmark.worker.engine.cuda.kernels.gathered_attention import GatherRoom
from endmark.worker.engine.cuda.prefill import PassInputs, Piece
from endmark.worker.engine.cuda.prompt_tables import Idle, PromptStep, Size, pass_sizes
from endmark.worker.engine.cuda.replay import Recorder
from endmark.worker.engine.cuda.rooms import SampledRows
from endmark.worker.engine.plan import Copied, PrefillRow

pytestmark = pytest.mark.engine
SPARE, CPU = 99, torch.device("cpu")
IDLE = Idle(SPARE, pass_sizes(2048))


def piece(slot, begin, end):
    return Piece(PrefillRow(slot, range(7, end + 8), begin, (), 0, 0, Sampling(), ScoreNumbers(), 0), begin, end)


def running_rows(count):
    numbers = torch.arange(count, dtype=torch.int32)
    rows = SampledRows(numbers + 40, numbers + 300, numbers, numbers)
    return DecodeInputs(numbers.long() + 5, rows.lengths.long(), rows, range(40, 40 + count)) if count else None


def padded(pieces, running, room=0):
    tokens = sum(piece.end - piece.begin for piece in pieces) + running
    return PassInputs.of([*pieces, *IDLE.beside(tokens)], running_rows(running), CPU, room)


def tiles_of(columns):
    return [tuple(column) for column in torch.stack(list(columns)).T.tolist()]


@pytest.mark.parametrize("seed", range(10))
def test_a_pass_is_padded_by_tokens_that_nobody_reads(seed):
    rng = random.Random(seed)
    pieces = [piece(slot, 0, rng.randrange(1, 400)) for slot in range(rng.randrange(1, 6))]
    running = rng.choice([0, 1, 30])
    plain = PassInputs.of(pieces, running_rows(running), CPU)
    inputs = padded(pieces, running)
    size = len(plain.tokens)
    assert len(inputs.tokens) == next(some for some in IDLE.sizes if some >= size)
    assert told(inputs) == told(plain)
    assert set(inputs.positions[inputs.slots == SPARE].tolist()) <= set(range(16))
    assert inputs.sampled == plain.sampled == running
    if running:
        assert torch.equal(inputs.slots[inputs.keep], plain.slots[plain.keep])


def told(inputs):
    """What is computed for rows, in order; a single idle token stands at the front, as a running row does."""
    columns = zip(
        *(getattr(inputs, name).tolist() for name in ("slots", "positions", "positions64", "tokens")), strict=True
    )
    return [column for column in columns if column[0] != SPARE]


def test_all_rows_and_a_single_idle_token_attend_as_running_rows(monkeypatch):
    """A pass of as many running rows as there are, padded by one token, had one more of them than any size."""
    monkeypatch.setattr(prompt_steps, "part_layers", lambda *_: True)
    config = SimpleNamespace(hidden_size=8)
    config.get_text_config = lambda: config
    network = SimpleNamespace(config=config, device=CPU, dtype=torch.float32)
    steps = prompt_steps.PromptSteps.of(network, None, Recorder(CPU), IDLE, 24, 0)
    ran = []
    monkeypatch.setattr(steps, "_first", ran.append)
    inputs = padded([piece(24, 0, 7)], 24)
    assert inputs.decoding == 25
    assert steps.first(inputs)
    assert len(ran[0].running[0]) == 28


def test_a_larger_pass_than_any_stays_as_it_is():
    assert IDLE.beside(2049) == IDLE.beside(2048) == []


@pytest.mark.parametrize("seed", range(10))
def test_tables_hold_the_pass_and_nothing_else(seed):
    """Filled again and again: what a longer pass has left there must not be done once more."""
    rng = random.Random(seed)
    size, room = Size(2048, 64, gathers=True), 8192
    step = PromptStep(size, SPARE, GatherRoom(room), CPU)
    for running in (0, 60, 3):
        pieces = [piece(0, 0, 700), piece(1, 1000, 1000 + rng.randrange(200, 600))]
        pieces += [piece(2, 0, 100)] * rng.randrange(3)
        pieces.append(
            piece(3, 0, 2048 - running - rng.randrange(0, 32, 2) - sum(it.end - it.begin for it in pieces))
        )
        inputs = padded(pieces, running, room)
        assert step.takes(inputs)
        step.fill(inputs)
        front = step.front
        for name in ("tokens", "positions", "positions64", "slots"):
            assert torch.equal(getattr(front, name), getattr(inputs, name))
        slots, positions = front.running
        assert slots.tolist() == [*range(40, 40 + running), *[SPARE] * (64 - running)]
        assert positions.tolist() == [*range(300, 300 + running), *[0] * (64 - running)]
        for tables, columns, count in (
            (front.tiles, inputs.tiles, 2),
            (front.gathered.tiles, inputs.gathered.tiles, 1),
            (front.gathered.chunks, inputs.gathered.chunks, 2),
        ):
            have, want = tiles_of(tables), tiles_of(columns)
            assert have[: len(want)] == want
            assert {column[count] for column in have[len(want) :]} == {0}
        for part in (*front.tiles, *front.gathered.tiles, *front.gathered.chunks, *front.running):
            assert part.data_ptr() % 16 == step._whole.data_ptr() % 16, "Triton compiles for such pointers"


def test_fronts_of_pages_that_are_copied():
    """A pass with fewer of them than the one before copies nothing more than its own."""
    step = PromptStep(Size(64, 0, gathers=False, copies=True, short=True), SPARE, GatherRoom(0), CPU)
    for count in (5, 2):
        pieces = [piece(slot, 3, 13) for slot in range(count)]
        for slot, it in enumerate(pieces):
            pieces[slot] = replace(it, row=replace(it.row, copied=Copied(slot, slot + 9, 3)))
        inputs = padded(pieces, 0) if count == 5 else padded([*pieces, piece(9, 0, 20)], 0)
        assert step.takes(inputs)
        step.fill(inputs)
        columns = tiles_of(step.front.copied)
        assert columns[:count] == [(slot, slot + 9, 3) for slot in range(count)]
        assert set(columns[count:]) == {(0, 0, 0)}


def test_a_pass_with_more_tiles_than_there_is_room_for_is_left_out():
    step = PromptStep(Size(256, 0, gathers=False, short=True), SPARE, GatherRoom(0), CPU)
    assert step.takes(padded([piece(slot, 0, 8) for slot in range(32)], 0))
    assert not step.takes(padded([piece(slot, 0, 4) for slot in range(64)], 0))


def test_many_tiles_have_tables_of_their_own():
    """Tables for prompts of 8 tokens slowed 2,048 tokens of common prompts by a thirtieth: most were idle."""
    common = padded([piece(slot, 0, 290) for slot in range(7)], 0)
    tiny = padded([piece(slot, 0, 16) for slot in range(120)], 0)
    assert not Size.of(common, 0).short
    assert Size.of(tiny, 0).short
    for inputs in (common, tiny):
        assert PromptStep(Size.of(inputs, 0), SPARE, GatherRoom(0), CPU).takes(inputs)
