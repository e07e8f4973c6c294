"""The one-launch end of a step against the plain path's arithmetic, row by row."""

import os
import random

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.jobs.landing import LANDED, STATES
from endmark.jobs.strategies import build_strategies, score_numbers
from endmark.worker.engine.cuda.kernels.inputs import begin_step
from endmark.worker.engine.cuda.kernels.sampling import finish_step
from endmark.worker.engine.cuda.rooms import Rooms, SampledRows, Steering
from endmark.worker.engine.flags import FORCED, NATURAL
from endmark.worker.engine.layout import LISTS, RESULT, SLOT, STEP, score_values
from endmark.worker.engine.sampler import stream_key
from endmark.worker.engine.scores import eos_statistics
from endmark.worker.engine.steering import MOST_INSERTED
from endmark.worker.engine.step_end import StepEnd

# the number that stands for "no published arithmetic" is NaN, of which the interpreter's NumPy warns
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
LARGE = [] if INTERPRETED else [(1500, [1, 7]), (32000, [2]), (40_000, [5, 39_999])]
STRATEGIES = [
    [],
    ["eos-reward"],
    ["eos-reward-published"],
    ["soft-landing"],
    ["exp-decay"],
    ["eos-reward:start=0.1,margin=0.5"],
    ["soft-landing:start=0.1,firm=0.9"],
    ["soft-landing:start=0.1,firm=0.9,power=1"],
    ["whole:bar=2,margin=1"],
]


def plain(raw, eos, records, slots, steps, positions, *, table=None, logits=None):
    """Return what the plain path's own step gives, and the records as it leaves them.

    Args:
        records: (S, SLOT.width), by slot; the others are (R,).
        logits: the scores after the rows' penalties, if any has one.
    """
    end = StepEnd(eos, len(records), table, raw.device)
    end.records[:] = records
    return end.draw(raw, raw if logits is None else logits, slots, steps, positions), end.records


def told(tokens, flags, eos):
    """Return the flags that mean something: NATURAL does of an end alone."""
    return [bits if token in eos else bits & ~NATURAL for token, bits in zip(tokens, flags, strict=True)]


def assert_same(result, want, eos):
    """The columns (RESULT.width, R) that a step wrote are what the plain path gave."""
    tokens, ranks, flags = (result[RESULT[name]].tolist() for name in ("token", "rank", "flags"))
    assert tokens == want.token_ids
    assert ranks == want.eos_ranks
    assert told(tokens, flags, eos) == told(tokens, want.flags, eos)
    probs = result[RESULT["eos_prob"]].contiguous().view(torch.float32)
    assert torch.allclose(probs, torch.tensor(want.eos_probs), atol=1e-5)


def record(given, **values):
    """Return the record of a row with these score numbers and other values."""
    shaped = not given.is_neutral
    return torch.from_numpy(SLOT.pack({**score_values(given), "top_p": 1.0, "shaped": shaped, **values}))


def random_records(rng, slots):
    """Slots with every strategy, temperature, top-k and top-p in turn."""
    return torch.stack(
        [
            record(
                score_numbers(build_strategies(STRATEGIES[slot % len(STRATEGIES)]), 100),
                key=stream_key(3, slot),
                landing=rng.choice([LANDED, 0]),
                temperature=rng.choice([0, 0.1, 1.0, 1.3]),
                top_k=rng.choice([0, 1, 5, 50]),
                top_p=rng.choice([1.0, 0.9, 0.5]),
                min_p=rng.choice([0.0, 0.0, 0.02, 0.3]),
            )
            for slot in range(slots)
        ]
    )


def empty_rooms(slots, vocabulary):
    """Rooms of rows whose tokens nobody asks for."""
    tables = torch.zeros(slots, 1, dtype=torch.int32, device=DEVICE)
    lists = torch.zeros(slots, LISTS.width, dtype=torch.int32, device=DEVICE)
    return Rooms.build(tables, lists, torch.zeros(1, 16, dtype=torch.int32, device=DEVICE), vocabulary)


def unsteered(slots, eos):
    """Nothing that steers a row."""
    targets = torch.zeros(slots + 1, max(4, len(eos)), dtype=torch.int32, device=DEVICE)
    targets[-1] = torch.tensor([*eos, *[eos[0]] * (targets.shape[1] - len(eos))])
    return Steering(targets, torch.zeros(slots, MOST_INSERTED, dtype=torch.int32, device=DEVICE))


@pytest.mark.parametrize(("vocabulary", "eos"), [(999, [1]), (5000, [1, 998]), *LARGE])
@pytest.mark.parametrize("seed", range(1 if INTERPRETED else 3))
def test_a_step_ends_as_on_the_plain_path(vocabulary, eos, seed):
    rng, rows = random.Random(seed), 24
    torch.manual_seed(seed)
    logits = torch.randn(rows, vocabulary) * 3
    logits[:, eos] += torch.randn(rows, 1) * 4
    records = random_records(rng, rows + 1)
    slots = torch.randperm(rows + 1)[:rows]
    steps = torch.tensor([rng.choice([0, 50, 81, 90, 98, 99]) for _ in range(rows)])
    table = torch.randint(0, STATES, (STATES, vocabulary)).to(torch.uint8)
    want, after = plain(logits, torch.tensor(eos), records, slots, steps, steps + 3, table=table)

    records = records.to(DEVICE)
    result = torch.full((RESULT.width, rows + 3), -7, dtype=torch.int32, device=DEVICE)
    ids, *ints = (part.to(DEVICE, torch.int32) for part in (torch.tensor(eos), slots, steps + 9, steps, steps + 3))
    rooms = empty_rooms(rows + 1, vocabulary)
    steering = unsteered(rows + 1, eos)
    finish_step(logits.to(DEVICE), ids, SampledRows(*ints), records, table.to(DEVICE), steering, rooms, result, 2)

    assert_same(result.cpu()[:, 2 : 2 + rows], want, eos)
    assert (result.cpu()[:, :2] == -7).all()
    watched = SLOT.of(after, "after_sentence") > 0
    assert torch.equal(SLOT.of(records.cpu(), "last"), SLOT.of(after, "last"))
    assert torch.equal(SLOT.of(records.cpu(), "landing")[watched], SLOT.of(after, "landing")[watched])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_an_end_that_comes_by_itself_where_it_is_forced_is_natural(temperature):
    """It was booked as forced, and a strategy took the credit for an ending that was the model's own."""
    vocabulary, eos, rows = 999, [1, 7], 2
    logits = torch.zeros(rows, vocabulary)
    logits[0, 7], logits[1, 5] = 50.0, 50.0  # the first row ends by itself, the other would go on
    given = score_numbers(build_strategies(["eos-reward"]), 100)
    records = torch.stack([record(given, key=7, temperature=temperature) for _ in range(rows)])
    slots, steps = torch.arange(rows), torch.full((rows,), 99)
    want, _ = plain(logits, torch.tensor(eos), records, slots, steps, steps)
    result = torch.zeros(RESULT.width, rows, dtype=torch.int32, device=DEVICE)
    ids, *ints = (part.to(DEVICE, torch.int32) for part in (torch.tensor(eos), slots, steps, steps, steps))
    rooms, steering = empty_rooms(rows, vocabulary), unsteered(rows, eos)
    finish_step(logits.to(DEVICE), ids, SampledRows(*ints), records.to(DEVICE), None, steering, rooms, result)
    assert_same(result.cpu(), want, eos)
    assert [bits & (NATURAL | FORCED) for bits in want.flags] == [NATURAL, FORCED]
    assert set(want.token_ids) <= set(eos)


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
    logits, records = torch.randn(rows, vocabulary), torch.zeros(rows, SLOT.width, dtype=torch.int32)
    for row in range(rows):
        spoil[row % len(spoil)](logits[row])
        temperature, top_k, top_p = settings[row // len(spoil)]
        given = score_numbers(build_strategies(STRATEGIES[row % len(STRATEGIES)]), 100)
        records[row] = record(given, key=77, landing=LANDED, temperature=temperature, top_k=top_k, top_p=top_p)
    records = records.to(DEVICE)
    result = torch.zeros(RESULT.width, rows, dtype=torch.int32, device=DEVICE)
    table = torch.zeros(STATES, vocabulary, dtype=torch.uint8, device=DEVICE)
    steps = torch.full((rows,), 98)
    ids, *ints = (
        part.to(DEVICE, torch.int32) for part in (torch.tensor(eos), torch.arange(rows), steps, steps, steps)
    )
    rooms, steering = empty_rooms(rows, vocabulary), unsteered(rows, eos)
    finish_step(logits.to(DEVICE), ids, SampledRows(*ints), records, table, steering, rooms, result)
    tokens, probs = result[RESULT["token"]].cpu(), result[RESULT["eos_prob"]].cpu().view(torch.float32)
    want, _ = eos_statistics(logits, torch.tensor(eos))
    assert torch.equal(probs.isnan(), want.isnan())
    assert probs.isnan().tolist() == [row % len(spoil) != len(spoil) - 1 for row in range(rows)]
    assert ((tokens >= 0) & (tokens < vocabulary)).all()
    assert torch.equal(SLOT.of(records.cpu(), "last"), tokens)


def test_a_step_begins_with_each_rows_last_token_and_the_changed_pages():
    rng, rows, slots = random.Random(0), 5, 9
    records = torch.stack([torch.from_numpy(SLOT.pack({"last": 100 + slot})) for slot in range(slots)])
    tables = torch.zeros(slots, 6, dtype=torch.int32)
    chosen = rng.sample(range(slots), rows)
    changed = rng.sample(range(slots), rows)
    columns = [
        STEP.pack(
            {"slot": slot, "length": 30 + slot, "changed_slot": other, "changed_index": 4, "changed_page": 7}
        )
        for slot, other in zip(chosen, changed, strict=True)
    ]
    inputs = torch.stack([torch.from_numpy(column) for column in columns], 1).to(DEVICE)
    tables, tokens = tables.to(DEVICE), torch.zeros(rows, dtype=torch.int64, device=DEVICE)
    positions = torch.zeros_like(tokens)
    begin_step(inputs, tables, records.to(DEVICE), tokens, positions)
    assert tokens.tolist() == [100 + slot for slot in chosen]
    assert positions.tolist() == [30 + slot for slot in chosen]
    assert tables[:, 4].tolist() == [7 if slot in changed else 0 for slot in range(slots)]
    assert tables.sum().item() == 7 * rows
