"""Rows whose sampling changes their scores, in one step with others: the kernels against the plain arithmetic."""

import os
import random

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.jobs.landing import STATES
from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import build_strategies, score_numbers
from endmark.worker.engine.adjusting import adjust
from endmark.worker.engine.cuda.kernels.inputs import note_tokens
from endmark.worker.engine.cuda.kernels.sampling import finish_step
from endmark.worker.engine.cuda.rooms import Rooms, SampledRows
from endmark.worker.engine.layout import LISTS, RESULT, SLOT
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.slot_record import slot_lists, slot_record
from tests.engine.test_adjusting import written
from tests.gpu.test_sampling import assert_same, plain, unsteered

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
PAGE, WIDTH = 16, 6
SETTINGS = [
    {},
    {"repetition_penalty": 1.3},
    {"presence_penalty": 1.5, "frequency_penalty": -0.5},
    {"dry_multiplier": 0.8},
    {"no_repeat_ngram_size": 3},
    {"min_new_tokens": 30},
    {"logit_bias": ((3, 4.5), (9, -100.0), (700, 2.0))},
    {"bad_words": ("of which the sequences are drawn",)},
    {
        "repetition_penalty": 0.7,
        "presence_penalty": -1.0,
        "frequency_penalty": 0.6,
        "dry_multiplier": 2.0,
        "logit_bias": tuple((token, token / 50 - 8.0) for token in range(0, 800, 2)),
        "bad_words": ("all together",),
        "no_repeat_ngram_size": 5,
    },
]
STRATEGIES = ["baseline", "eos-reward", "exp-decay", "soft-landing", "eos-reward-published"]


def random_row(rng, slot, vocabulary):
    """A row with few different tokens, so that runs repeat, in pages that lie anywhere."""
    length, few = rng.randrange(2, PAGE * WIDTH), rng.sample(range(vocabulary), 4)
    prompt = rng.randrange(1, length)
    sampling = Sampling(
        temperature=rng.choice([0.0, 0.7, 1.2]),
        top_k=rng.choice([0, 0, 40]),
        min_p=rng.choice([0.0, 0.01]),
        seed=slot,
        **SETTINGS[slot % len(SETTINGS)],
    )
    numbers = score_numbers(build_strategies([STRATEGIES[slot // 2 % len(STRATEGIES)]]), length - prompt + 3)
    tokens = [rng.choice(few) if rng.random() < 0.9 else rng.randrange(vocabulary) for _ in range(length)]
    position = length - prompt
    # Sequences that the row ends with the beginning of, and others; one is longer than some rows.
    words = [
        [*tokens[length - begun :], rng.randrange(vocabulary)] for begun in (0, 1, 2, 5, 15) if begun < length
    ]
    words += [[rng.choice(few), rng.randrange(vocabulary)] for _ in range(5)] + [[*tokens, 4][:16]]
    bad_words = words if sampling.bad_words else []
    return PrefillRow(slot, tokens, 0, (), position, position, sampling, numbers, slot, 0, bad_words, prompt)


@pytest.mark.parametrize("programs", [2, 128], ids=["few rooms", "a room a row"])
@pytest.mark.parametrize(
    ("vocabulary", "eos"), [(1500, [1, 7]), *([] if INTERPRETED else [(40_000, [5, 39_999])])]
)
def test_penalties_are_those_of_the_plain_path_in_one_step_with_other_rows(vocabulary, eos, programs, monkeypatch):
    """Under each setting, greedy and drawn, with strategies and without; the rooms are clean at the end."""
    monkeypatch.setattr("endmark.worker.engine.cuda.rooms.ROOMS", programs)
    rng = random.Random(vocabulary)
    torch.manual_seed(vocabulary)
    rows = [random_row(rng, slot, vocabulary) for slot in range(36)]
    logits = torch.randn(len(rows), vocabulary) * 3
    logits[:, eos] += torch.randn(len(rows), 1) * 4
    records = torch.stack([torch.from_numpy(slot_record(row)) for row in rows])
    pages = rng.sample(range(len(rows) * WIDTH), len(rows) * WIDTH)
    tables = torch.tensor(pages, dtype=torch.int32).view(len(rows), WIDTH).to(DEVICE)
    history = torch.full((len(pages), PAGE), -1, dtype=torch.int32, device=DEVICE)

    changed = [row for row in rows if row.sampling.adjusts]
    chosen = torch.tensor([row.slot for row in changed])
    scores = logits[chosen]
    adjust(scores, changed, written(changed), torch.tensor(eos))
    adjusted = logits.index_copy(0, chosen, scores)
    steps = torch.tensor([row.step for row in rows])
    slots = torch.arange(len(rows))
    want, _ = plain(logits, torch.tensor(eos), records, slots, steps, steps, logits=adjusted)
    assert (adjusted != logits).any(-1).sum() > len(rows) // 2

    lists = torch.zeros(len(rows), LISTS.width, dtype=torch.int32)
    for row in rows:
        if (own := slot_lists(row)) is not None:
            lists[row.slot] = torch.from_numpy(own)
    rooms = Rooms.build(tables, lists.to(DEVICE), history, vocabulary)
    flat = [(token, row.slot, place) for row in rows for place, token in enumerate(row.token_ids)]
    tokens, owners, places = torch.tensor(flat, device=DEVICE).T.contiguous()
    note_tokens(tokens, owners.int(), places.int(), tables, history)
    lengths = torch.tensor([len(row.token_ids) - 1 for row in rows])
    ints = (part.to(DEVICE, torch.int32) for part in (slots, lengths, steps, steps))
    result = torch.zeros(RESULT.width, len(rows), dtype=torch.int32, device=DEVICE)
    table = torch.zeros(STATES, vocabulary, dtype=torch.uint8, device=DEVICE)
    records, ids = records.to(DEVICE), torch.tensor(eos, dtype=torch.int32, device=DEVICE)
    steering = unsteered(len(records), eos)
    finish_step(logits.to(DEVICE), ids, SampledRows(*ints), records, table, steering, rooms, result)

    result = result.cpu()
    assert_same(result, want, eos)
    assert torch.equal(SLOT.of(records.cpu(), "last"), result[RESULT["token"]])
    assert not rooms.counts.any()
    assert len(rooms.scores) == min(programs, len(rows))
