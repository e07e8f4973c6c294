"""Phases and insertions at the end of a step, on whole logits."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from endmark.jobs.landing import LANDED, START, STATES
from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers, build_strategies, score_numbers
from endmark.worker.engine.flags import FORCED, HIDDEN, INSERTED, NATURAL
from endmark.worker.engine.layout import SLOT
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.steering import Call, Insertion, Phase
from endmark.worker.engine.step_end import StepEnd

pytestmark = pytest.mark.engine

V, EOS, CLOSE = 200, [3, 9], (50, 51, 52)
TABLE = torch.randint(0, STATES, (STATES, V), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
TABLE[:, ::3] = LANDED
STRATEGIES = [
    "eos-reward:start=0.1",
    "soft-landing:start=0.1,firm=0.9",
    "exp-decay:start=0.1",
    "eos-reward-published",
]


def numbers_of(index, budget=8):
    return score_numbers(build_strategies([STRATEGIES[index % len(STRATEGIES)]]), budget)


def row_of(slot, rng, **options):
    settings = {"numbers": ScoreNumbers(), "stream": slot, **options}
    sampling = Sampling(temperature=rng.choice([0, 0.7, 1.2]), top_k=rng.choice([0, 20]), seed=rng.randrange(99))
    return PrefillRow(slot, [5], 0, [0], 0, 0, sampling=sampling, **settings)


def draw(end, logits, slots, step):
    steps = torch.full((len(slots),), step)
    return end.draw(logits, logits, torch.tensor(slots), steps, steps)


def test_a_phase_is_to_its_ends_what_an_answer_is_to_eos():
    """With the same numbers an open phase gives the tokens and sources that a model with those end ids gives."""
    rng, rows = random.Random(5), 80
    phased = StepEnd(torch.tensor(EOS), rows, TABLE, torch.device("cpu"))
    twin = StepEnd(torch.tensor(CLOSE), rows, TABLE, torch.device("cpu"))
    for slot in range(rows):
        seed, numbers = rng.randrange(10**6), numbers_of(slot)
        phase = Phase(CLOSE, numbers=numbers)
        phased.admit(row_of(slot, random.Random(seed), phase=phase, phase_open=True))
        twin.admit(row_of(slot, random.Random(seed), numbers=numbers))
    running, sources = list(range(rows)), set()
    torch.manual_seed(2)
    for step in range(8):
        logits = torch.randn(len(running), V) * 2
        logits[:, CLOSE] -= 1
        logits[:, EOS] = -torch.inf  # which the twin does not know
        got, want = draw(phased, logits, running, step), draw(twin, logits, running, step)
        assert got.token_ids == want.token_ids
        ended = [token in CLOSE for token in want.token_ids]
        for one, other, end in zip(got.flags, want.flags, ended, strict=True):
            if end:
                assert one & ~HIDDEN == other & ~HIDDEN
                sources.add(one & ~HIDDEN)
        running = [slot for slot, end in zip(running, ended, strict=True) if not end]
    assert sources == {NATURAL, 0, FORCED}


def test_a_mark_of_several_tokens_is_raised_by_its_first_and_followed_on_the_device():
    """Its first token comes where an end of one token would: the rest is put in, or said, and no step is late."""
    mark, rows, rng = (CLOSE[0], 61, 62), 60, random.Random(8)
    end = StepEnd(torch.tensor(EOS), rows, TABLE, torch.device("cpu"))
    twin = StepEnd(torch.tensor(EOS), rows, TABLE, torch.device("cpu"))
    for slot in range(rows):
        seed, numbers = rng.randrange(10**6), numbers_of(slot, budget=5)
        phase = Phase(mark[:1], numbers=numbers, restarts=True)
        twin.admit(row_of(slot, random.Random(seed), phase=phase, phase_open=True))
        phase, insertion = replace(phase, mark=mark), Insertion((60, *mark))
        end.admit(row_of(slot, random.Random(seed), phase=phase, phase_open=True, insertion=insertion))
    torch.manual_seed(4)
    running, kinds = list(range(rows)), []
    for step in range(5):
        logits = torch.randn(rows, V)
        logits[:, EOS] = -torch.inf
        got, want = draw(end, logits[running], running, step), draw(twin, logits[running], running, step)
        assert got.token_ids == want.token_ids
        ended = [slot for slot, token in zip(running, got.token_ids, strict=True) if token == mark[0]]
        for slot, flags in zip(running, got.flags, strict=True):
            if slot in ended:
                natural = bool(flags & NATURAL)
                kinds.append(natural)
                ahead = torch.zeros(1, V)
                ahead[0, 100] = 30
                said = [draw(end, ahead, [slot], step + 1 + index).token_ids[0] for index in range(3)]
                assert said == ([100] * 3 if natural else [61, 62, 100])
                assert SLOT.of(end.records[slot], "origin") == (0 if natural else step + 3)
        running = [slot for slot in running if slot not in ended]
    assert set(kinds) == {False, True}


def test_behind_its_phase_a_row_is_as_one_that_had_none():
    """Its numbers act on EOS again, and landing spots are those of the text behind the phase."""
    rng = random.Random(6)
    end = StepEnd(torch.tensor(EOS), 2, TABLE, torch.device("cpu"))
    numbers = score_numbers(build_strategies(["soft-landing:start=0.1,firm=0.9"]), 8)
    phase = Phase(CLOSE[:1])
    end.admit(row_of(0, rng, phase=phase, phase_open=True, numbers=numbers, insertion=Insertion(CLOSE[:1], at=1)))
    torch.manual_seed(3)
    logits = torch.randn(4, 1, V)
    assert draw(end, logits[0], [0], 0).token_ids[0] not in CLOSE
    closed = draw(end, logits[1], [0], 1)
    assert (closed.token_ids, closed.flags[0] & ~HIDDEN) == ([CLOSE[0]], FORCED | INSERTED)
    assert SLOT.of(end.records[0], "landing") == START
    end.admit(row_of(1, random.Random(6), numbers=numbers, stream=0))
    end.records[1, :] = torch.where(torch.arange(end.records.shape[1]) < 2, end.records[0], end.records[1])
    for step in (2, 3):
        got, want = draw(end, logits[step], [0], step), draw(end, logits[step], [1], step)
        assert got.token_ids == want.token_ids


@pytest.mark.parametrize("restarts", [False, True])
def test_behind_a_phase_that_restarts_them_numbers_count_anew(restarts):
    """A budget of the answer's own begins where the thought ends, wherever that is."""
    end = StepEnd(torch.tensor(EOS), 1, TABLE, torch.device("cpu"))
    numbers = ScoreNumbers(force_at=2)
    phase = Phase(CLOSE[:1], opens_with=70, restarts=restarts)
    row = row_of(0, random.Random(1), phase=phase, phase_undecided=True, numbers=numbers)
    end.admit(row)
    tokens = []
    for step, best in enumerate([70, 100, 100, 100, CLOSE[0], 100, 100, 100]):
        logits = torch.zeros(1, V)
        logits[0, best] = 30
        tokens += draw(end, logits, [0], step).token_ids
    assert tokens[:5] == [70, 100, 100, 100, CLOSE[0]]
    assert tokens[5:7] == [100, 100]
    assert (tokens[7] in EOS) == restarts


def test_a_token_put_in_is_natural_where_the_model_would_have_ended_there_too():
    rng = random.Random(7)
    end = StepEnd(torch.tensor(EOS), 2, None, torch.device("cpu"))
    logits = torch.zeros(2, V)
    logits[0, CLOSE[1]], logits[1, 100] = 30, 30
    for slot in range(2):
        end.admit(row_of(slot, rng, phase=Phase(CLOSE), phase_open=True, insertion=Insertion((CLOSE[0],), at=0)))
    result = draw(end, logits, [0, 1], 0)
    assert result.token_ids == [CLOSE[0]] * 2
    assert [flags & ~HIDDEN for flags in result.flags] == [NATURAL | FORCED | INSERTED, FORCED | INSERTED]


@pytest.mark.parametrize(
    ("call", "open_then", "comes"),
    [(Call.NOW, True, True), (Call.NOW, False, True), (Call.IN_PHASE, True, True), (Call.IN_PHASE, False, False)],
)
def test_a_call_in_the_phase_comes_to_nothing_once_it_has_ended(call, open_then, comes):
    """The host calls a step after what it has seen: the phase may have ended by itself meanwhile."""
    end = StepEnd(torch.tensor(EOS), 1, None, torch.device("cpu"))
    insertion = Insertion((70, 71), at=5 if open_then else 0)
    end.admit(row_of(0, random.Random(1), phase=Phase(CLOSE), phase_open=open_then, insertion=insertion))
    logits = torch.zeros(1, V)
    logits[0, 100] = 30
    end.call([0], [2], [call])
    tokens = [draw(end, logits, [0], step).token_ids[0] for step in (2, 3, 4)]
    assert tokens == ([70, 71, 100] if comes else [100] * 3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("eos_allowed", [False, True])
def test_a_mask_is_as_scores_of_minus_infinity_and_statistics_stay_those_of_the_model(temperature, eos_allowed):
    """Hidden is told where the mask excludes EOS and that was what the model thought best."""
    bits = np.zeros(V + 24, np.uint8)
    bits[100:120] = 1
    bits[EOS] = eos_allowed
    words = np.packbits(bits, bitorder="little").view(np.int32)
    end, plain = (StepEnd(torch.tensor(EOS), 8, None, torch.device("cpu")) for _ in range(2))
    sampling = Sampling(temperature=temperature, seed=4)
    for slot in range(8):
        row = PrefillRow(slot, [5], 0, [0], 0, 0, sampling=sampling, stream=slot, numbers=numbers_of(slot))
        plain.admit(row)
        end.admit(replace(row, mask=words if slot % 2 else None))
    torch.manual_seed(8)
    logits = torch.randn(8, V)
    logits[:4, EOS[0]] += 9
    logits[4:, EOS] -= 9
    excluded = logits.clone()
    excluded[1::2, torch.from_numpy(bits[:V] == 0)] = -torch.inf
    got, want = draw(end, logits, range(8), 3), draw(plain, excluded, range(8), 3)
    raw = draw(plain, logits, range(8), 3)
    assert got.token_ids == want.token_ids
    assert (got.eos_probs, got.eos_ranks) == (raw.eos_probs, raw.eos_ranks)
    hidden = [bool(flags & HIDDEN) for flags in got.flags]
    assert hidden == [slot % 2 == 1 and slot < 4 and not eos_allowed for slot in range(8)]


@pytest.mark.parametrize("count", [0, 65])
def test_what_cannot_be_put_in_is_refused(count):
    with pytest.raises(ValueError, match="from 1 to 64"):
        Insertion((7,) * count)


def test_an_end_of_several_tokens_is_found_in_what_was_said_before():
    phase = Phase((7,), mark=(7, 8, 9))
    assert phase.at((1, 7, 8, 2, 7, 7, 8, 9, 3)) == (False, 8)
    assert phase.at((1, 7, 8)) == (True, 0)
    assert [phase.matched(text) for text in ((1, 7, 8), (7, 7), (8, 9), ())] == [2, 1, 0, 0]
    with pytest.raises(ValueError, match="the first of them"):
        Phase((8,), mark=(7, 8))


@pytest.mark.parametrize("count", [0, 5])
def test_a_phase_of_too_many_ends_is_refused(count):
    with pytest.raises(ValueError, match="from 1 to 4"):
        Phase((7,) * count)
