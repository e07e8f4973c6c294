"""Phases and insertions in the kernels, step after step, against the same on the plain path."""

import os
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.cuda.kernels.inputs import begin_step
from endmark.worker.engine.cuda.kernels.sampling import finish_step
from endmark.worker.engine.cuda.rooms import Rooms, SampledRows, Steering
from endmark.worker.engine.cuda.slots import SlotState
from endmark.worker.engine.flags import INSERTED, NATURAL
from endmark.worker.engine.layout import RESULT, SLOT, STEP
from endmark.worker.engine.steering import Call, Insertion, Phase
from endmark.worker.engine.step_end import StepEnd
from tests.engine.test_steering import CLOSE, EOS, TABLE, V, numbers_of, row_of

# the number that stands for "no published arithmetic" is NaN, of which the interpreter's NumPy warns
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
OPENING = 70  # the token that opens an undecided phase
ROWS, STEPS = (10, 5) if INTERPRETED else (60, 12)


def random_mask(rng):
    """Some tokens, with EOS and the ends of phases or without."""
    bits = np.array([rng.random() < 0.3 for _ in range(224)], np.uint8)
    bits[EOS], bits[list(CLOSE)] = rng.random() < 0.5, rng.random() < 0.7
    bits[100] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def random_row(slot, rng):
    """A row with a phase, an insertion, both or neither, and strategies in either part."""
    phase = Phase(
        CLOSE[: rng.randint(1, 3)],
        numbers=numbers_of(slot),
        eos_inserts=rng.random() < 0.5,
        opens_with=OPENING if slot % 5 < 2 else None,
        restarts=rng.random() < 0.5,
    )
    undecided = phase.opens_with is not None and slot % 4 > 0
    insertion = Insertion((60, CLOSE[0], 61), at=rng.choice([0, 2, 3, 2**30])) if rng.random() < 0.8 else None
    if slot % 3 == 1:  # an end of several tokens, with which the insertion ends
        mark = (CLOSE[0], *rng.choice([(61,), (61, CLOSE[1]), (CLOSE[0], 62)]))
        phase = replace(phase, end_ids=mark[:1], mark=mark)
        insertion = Insertion((60, *mark), at=rng.choice([1, 3, 2**30]))
    return row_of(
        slot,
        rng,
        numbers=numbers_of(slot + 1),
        phase=phase if slot % 4 else None,
        phase_open=slot % 4 > 1 and not undecided,
        phase_undecided=undecided,
        mask=random_mask(rng) if slot % 3 == 0 else None,
        insertion=insertion,
    )


@pytest.mark.parametrize("seed", range(1 if INTERPRETED else 4))
def test_rows_are_steered_as_on_the_plain_path(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    rows = [random_row(slot, rng) for slot in range(ROWS)]
    plain = StepEnd(torch.tensor(EOS), ROWS, TABLE, torch.device("cpu"))
    slots = SlotState(ROWS, 2, EOS, DEVICE, spare_page=0)
    slots.admit(rows)
    for row in rows:
        plain.admit(row)
    ids = torch.tensor(EOS, dtype=torch.int32, device=DEVICE)
    rooms = Rooms.build(slots.tables, slots.lists, torch.zeros(1, 16, dtype=torch.int32, device=DEVICE), V)
    tokens = torch.zeros(ROWS, dtype=torch.int64, device=DEVICE)
    seen, ended = set(), 0
    for step in range(STEPS):
        logits = torch.randn(ROWS, V) * 2
        logits[:, [*EOS, *CLOSE]] += 1
        logits[: ROWS // 2, OPENING] += 20 if step == 0 else 0
        calls = [rng.choice([Call.NONE] * 6 + [Call.IN_PHASE, Call.NOW]) for _ in range(ROWS)]
        columns = [STEP.pack({"slot": slot, "step": step, "call": call}) for slot, call in enumerate(calls)]
        inputs = torch.stack([torch.from_numpy(column) for column in columns], 1).to(DEVICE)
        begin_step(inputs, slots.tables, slots.records, tokens, torch.zeros_like(tokens))
        masks = [(slot, random_mask(rng)) for slot, row in enumerate(rows) if row.mask is not None]
        rooms.uploads.send(masks)
        plain.mask(masks)
        result = torch.zeros(RESULT.width, ROWS, dtype=torch.int32, device=DEVICE)
        ints = SampledRows(*(inputs[STEP[name]] for name in ("slot", "length", "step", "step")))
        steering = Steering(slots.targets, slots.inserts)
        finish_step(logits.to(DEVICE), ids, ints, slots.records, TABLE.to(DEVICE), steering, rooms, result)

        targets = [plain._steered[slot].targets if slot in plain._steered else () for slot in range(ROWS)]
        plain.call(range(ROWS), [step] * ROWS, calls)
        where, steps = torch.arange(ROWS), torch.full((ROWS,), step)
        want = plain.draw(logits, logits, where, steps, steps)
        got = result.cpu()
        assert got[RESULT["token"]].tolist() == want.token_ids
        for token, flags, found, ends in zip(
            want.token_ids, want.flags, got[RESULT["flags"]].tolist(), targets, strict=True
        ):
            if flags & INSERTED or token in (*EOS, *ends):
                assert found == flags
                seen.add(flags)
            else:
                assert found & ~NATURAL == flags & ~NATURAL
        assert SLOT.of(slots.records[:ROWS].cpu(), "origin").equal(SLOT.of(plain.records, "origin"))
        marked = [slot for slot, row in enumerate(rows) if row.phase is not None and row.phase.mark]
        matched = SLOT.of(slots.records.cpu(), "matched")[marked].tolist()
        assert matched == [plain._steered[slot].matched for slot in marked]
        ended += sum(plain._steered[slot].matched == rows[slot].phase.length for slot in marked)
        for name in ("last", "landing"):
            watched = slice(None) if name == "last" else SLOT.of(plain.records, "after_sentence") > 0
            there = SLOT.of(slots.records[:ROWS].cpu(), name)
            assert there[watched].tolist() == SLOT.of(plain.records, name)[watched].tolist(), name
    assert len(seen) >= 3
    assert ended
