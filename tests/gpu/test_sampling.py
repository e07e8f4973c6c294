"""The one-launch end of a step against the plain path's arithmetic, row by row."""

import os
import random

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.jobs.landing import LANDED, STATES
from endmark.jobs.strategies import build_strategies, score_numbers
from endmark.worker.engine.cuda.kernels.sampling import finish_step
from endmark.worker.engine.plan import FORCED, HIDDEN, NATURAL
from endmark.worker.engine.sampler import Draw, choose, stream_key
from endmark.worker.engine.scores import (
    AFTER_SENTENCE,
    NUMBERS,
    as_floats,
    eos_statistics,
    forced_rows,
    shape_scores,
)

# the number that stands for "no published arithmetic" is NaN, of which the interpreter's NumPy warns
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
LARGE = [] if INTERPRETED else [(32000, [2]), (40_000, [5, 39_999])]
STRATEGIES = [
    [],
    ["eos-reward"],
    ["eos-reward-published"],
    ["soft-landing"],
    ["exp-decay"],
    ["eos-reward:start=0.1,margin=0.5"],
    ["soft-landing:start=0.1,firm=0.9"],
]


def plain(logits, eos, slots, steps, positions, state):
    """Tokens, EOS probabilities, ranks and flags as the plain path computes them."""
    numbers, floats, draws, _, sentence = state
    probs, ranks = eos_statistics(logits, eos)
    draw = Draw(
        floats[slots, 0], draws[slots, 0].long(), floats[slots, 1], draws[slots, 1].long() & 0xFFFFFFFF, positions
    )
    shaped = (draws[slots, 2] != 0).nonzero().squeeze(-1)
    scores = logits.clone()
    ended = sentence[slots[shaped]] >= LANDED
    scores[shaped] = shape_scores(logits[shaped], eos, numbers[slots[shaped]], steps[shaped], ended)
    tokens, hidden = choose(scores, draw, eos)
    forced = forced_rows(numbers[slots], steps)
    flags = torch.full_like(tokens, NATURAL)
    without, _ = choose(logits, draw, eos)
    by_strategy = torch.where(torch.isin(without, eos), NATURAL, torch.where(forced, FORCED, 0))
    flags[shaped] = torch.where(torch.isin(tokens, eos), by_strategy, 0)[shaped]
    return tokens, probs, ranks, flags + hidden.long() * HIDDEN


def random_state(rng, slots):
    """Slots with every strategy, temperature, top-k and top-p in turn."""
    numbers, floats = torch.zeros(slots, NUMBERS), torch.zeros(slots, 2)
    draws = torch.zeros(slots, 3, dtype=torch.int32)
    for slot in range(slots):
        given = score_numbers(build_strategies(STRATEGIES[slot % len(STRATEGIES)]), 100)
        numbers[slot] = torch.tensor(as_floats(given))
        floats[slot] = torch.tensor([rng.choice([0, 0.1, 1.0, 1.3]), rng.choice([1.0, 0.9, 0.5])])
        key = stream_key(3, slot)
        signed = key - 2**32 if key >= 2**31 else key
        draws[slot] = torch.tensor([rng.choice([0, 1, 5, 50]), signed, not given.is_neutral], dtype=torch.int32)
    sentence = torch.tensor([rng.choice([LANDED, 0]) for _ in range(slots)], dtype=torch.int32)
    return numbers, floats, draws, torch.zeros(slots, dtype=torch.int32), sentence


@pytest.mark.parametrize(("vocabulary", "eos"), [(999, [1]), (1500, [1, 7]), (5000, [1, 998]), *LARGE])
@pytest.mark.parametrize("seed", range(1 if INTERPRETED else 3))
def test_a_step_ends_as_on_the_plain_path(vocabulary, eos, seed):
    rng, rows = random.Random(seed), 24
    torch.manual_seed(seed)
    logits = torch.randn(rows, vocabulary) * 3
    logits[:, eos] += torch.randn(rows, 1) * 4
    state = random_state(rng, rows + 1)
    slots = torch.randperm(rows + 1)[:rows]
    steps = torch.tensor([rng.choice([0, 50, 81, 90, 98, 99]) for _ in range(rows)])
    table = torch.randint(0, STATES, (STATES, vocabulary)).to(torch.uint8)
    before = state[4].clone()
    want = plain(logits, torch.tensor(eos), slots, steps, steps + 3, state)

    state = tuple(part.to(DEVICE) for part in state)
    result = torch.full((4, rows + 3), -7, dtype=torch.int32, device=DEVICE)
    ids, *ints = (part.to(DEVICE, torch.int32) for part in (torch.tensor(eos), slots, steps, steps + 3))
    finish_step(logits.to(DEVICE), ids, tuple(ints), state, table.to(DEVICE), result, first_column=2)

    got = result.cpu()[:, 2 : 2 + rows]
    for index, name in ((0, "token"), (2, "rank"), (3, "flags")):
        assert got[index].tolist() == want[index].tolist(), name
    assert torch.allclose(got[1].contiguous().view(torch.float32), want[1], atol=1e-5)
    assert (result.cpu()[:, :2] == -7).all()
    last, sentence = state[3].cpu(), state[4].cpu()
    for row, slot in enumerate(slots.tolist()):
        assert last[slot] == got[0, row]
        watched = state[0][slot, AFTER_SENTENCE] > 0
        assert sentence[slot] == (table[before[slot], got[0, row]] if watched else before[slot])


def test_scores_that_are_no_numbers_are_told_and_choose_a_token_that_exists():
    """The host fails the row, but its next step is under way by then, and must not read beyond the embedding."""
    vocabulary, eos = 999, [1, 7]
    spoil = [
        lambda row: row.fill_(torch.nan),
        lambda row: row.fill_(-torch.inf),
        lambda row: row[5:6].fill_(torch.nan),
        lambda row: row[998:].fill_(torch.inf),
        lambda row: row[1:2].fill_(torch.nan),
        lambda row: row[7:8].fill_(-torch.inf),  # a number: the token is impossible
    ]
    settings = [(0.0, 0, 1.0), (0.8, 0, 1.0), (0.8, 5, 1.0), (0.8, 50, 0.9)]
    rows = len(spoil) * len(settings)
    torch.manual_seed(1)
    logits, numbers = torch.randn(rows, vocabulary), torch.zeros(rows, NUMBERS)
    floats, draws = torch.zeros(rows, 2), torch.zeros(rows, 3, dtype=torch.int32)
    for row in range(rows):
        spoil[row % len(spoil)](logits[row])
        temperature, top_k, top_p = settings[row // len(spoil)]
        given = score_numbers(build_strategies(STRATEGIES[row % len(STRATEGIES)]), 100)
        numbers[row] = torch.tensor(as_floats(given))
        floats[row] = torch.tensor([temperature, top_p])
        draws[row] = torch.tensor([top_k, 77, not given.is_neutral], dtype=torch.int32)
    state = numbers, floats, draws, torch.zeros(rows, dtype=torch.int32), torch.full((rows,), LANDED)
    state = tuple(part.to(DEVICE) for part in (*state[:4], state[4].to(torch.int32)))
    result = torch.zeros(4, rows, dtype=torch.int32, device=DEVICE)
    table = torch.zeros(STATES, vocabulary, dtype=torch.uint8, device=DEVICE)
    steps = torch.full((rows,), 98)
    ids, *ints = (part.to(DEVICE, torch.int32) for part in (torch.tensor(eos), torch.arange(rows), steps, steps))
    finish_step(logits.to(DEVICE), ids, tuple(ints), state, table, result)
    tokens, probs = result[0].cpu(), result[1].cpu().view(torch.float32)
    want, _ = eos_statistics(logits, torch.tensor(eos))
    assert torch.equal(probs.isnan(), want.isnan())
    assert probs.isnan().tolist() == [row % len(spoil) != len(spoil) - 1 for row in range(rows)]
    assert ((tokens >= 0) & (tokens < vocabulary)).all()
    assert torch.equal(state[3].cpu(), tokens)
