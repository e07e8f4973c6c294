"""The draw inside vLLM on a card, step after step, against the same in plain PyTorch."""

import os
import random
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.jobs.sampling import Sampling
from endmark.worker.engine.flags import INSERTED, NATURAL
from endmark.worker.engine.layout import RESULT
from endmark.worker.engine.steering import Call, Insertion, Phase
from endmark.worker.vllm.block import ENTRY, Block
from endmark.worker.vllm.device_drawing import DeviceDrawing
from endmark.worker.vllm.drawing import Batch
from endmark.worker.vllm.host_drawing import HostDrawing
from endmark.worker.vllm.returns import Returns
from tests.engine.test_steering import CLOSE, EOS, TABLE, V, numbers_of, row_of
from tests.gpu.test_steering import random_mask

# the number that stands for "no published arithmetic" is NaN, of which the interpreter's NumPy warns
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning"),  # that it is a prototype
]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
ROWS, STEPS = (8, 4) if INTERPRETED else (60, 16)
EPOCH = 7
PENALTIES = [
    {},
    {"repetition_penalty": 1.5, "dry_multiplier": 0.8, "logit_bias": ((7, 1.5),)},
    {"presence_penalty": 0.5, "frequency_penalty": 0.5, "min_new_tokens": 3, "no_repeat_ngram_size": 2},
]


def random_row(slot, rng):
    """A row with strategies, penalties, a mask, a phase and an insertion, or without."""
    phase = Phase(CLOSE[: rng.randint(1, 3)], numbers=numbers_of(slot), eos_inserts=rng.random() < 0.5)
    row = row_of(
        slot,
        rng,
        numbers=numbers_of(slot + 1),
        phase=phase if slot % 4 == 1 else None,
        phase_open=slot % 4 == 1,
        mask=random_mask(rng) if slot % 5 == 0 else None,
        insertion=Insertion((60, CLOSE[0], 61), at=rng.choice([0, 2, 2**30])) if rng.random() < 0.5 else None,
    )
    sampling = Sampling(temperature=(slot % 2) * 0.9, seed=5, **PENALTIES[slot % 3])
    return replace(row, sampling=sampling, pages=(slot,), prompt=3)


def batch_of(rows, tokens, step, rng):
    """The step's batch."""
    count = len(rows)
    slots, steps = np.array([row.slot for row in rows], np.int32), np.full(count, step, np.int32)
    masks = [(row.slot, random_mask(rng)) for row in rows if row.mask is not None]
    calls = np.array([rng.choice([Call.NONE] * 5 + [Call.NOW]) for _ in rows], np.int32)
    lengths = np.array([len(item) - 1 for item in tokens], np.int32)
    return Batch(
        slots, lengths, steps, steps, np.full(count, EPOCH, np.int32), calls, masks, {}, False, tokens.__getitem__
    )


@contextmanager
def no_waiting():
    """Fail where the host waits for the card: vLLM computes a step while the host is at the next one."""
    if INTERPRETED:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_on_the_card_draws_what_plain_arithmetic_draws():
    """Step after step, rows before which stood a part of a prompt, which draws nothing, included."""
    rng = random.Random(3)
    torch.manual_seed(3)
    rows = [random_row(slot, rng) for slot in range(ROWS)]
    tokens = [[rng.randrange(3, V) for _ in range(3)] for _ in rows]
    card = DeviceDrawing(ROWS, 40, V, EOS, TABLE, DEVICE)
    plain = HostDrawing(ROWS, EOS, TABLE, torch.device("cpu"))
    for drawing in (card, plain):
        drawing.admit(list(zip(rows, tokens, strict=True)))
    idle = batch_of(rows, tokens, 0, random.Random(0))
    card.draw(torch.randn(ROWS, V).to(DEVICE), replace(idle, slots=np.full(ROWS, ROWS, np.int32), masks=[]))
    block = Block.make(ROWS, V)
    block.unlink()
    block.epochs[:] = EPOCH
    returns = Returns(block, DEVICE)
    seen = 0
    for step in range(STEPS):
        logits = torch.randn(ROWS, V) * 2
        logits[:, [*EOS, *CLOSE]] += 1
        batch = batch_of(rows, tokens, step, rng)
        steered = plain._end._steered
        targets = [steered[slot].targets if slot in steered else () for slot in range(ROWS)]
        want = plain.draw(logits, batch)
        scores = logits.to(DEVICE)
        with no_waiting():
            drawn = card.draw(scores, batch)
            returns.tell(scores, drawn, batch)
            card.leave(scores, drawn, batch, returns.entries)
            returns.send()
        got = drawn.cpu()
        assert scores.argmax(-1).tolist() == got[RESULT["token"]].tolist(), "what vLLM will choose"
        for name in ("token", "rank"):
            assert got[RESULT[name]].tolist() == want[RESULT[name]].tolist()
        probs = [item[RESULT["eos_prob"]].view(torch.float32) for item in (got, want)]
        assert torch.allclose(*probs, rtol=1e-4, atol=1e-6)
        flags = [item[RESULT["flags"]].tolist() for item in (want, got)]
        for token, told, found, ends in zip(got[RESULT["token"]].tolist(), *flags, targets, strict=True):
            kept = -1 if told & INSERTED or token in (*EOS, *ends) else ~NATURAL
            assert found & kept == told & kept
            seen |= told
        entries, found = block.found(np.arange(ROWS), np.full(ROWS, step))
        assert found.all()
        assert entries[:, ENTRY["token"]].tolist() == got[RESULT["token"]].tolist()
        for row, token in zip(tokens, got[RESULT["token"]].tolist(), strict=True):
            row.append(token)
    assert seen & INSERTED
