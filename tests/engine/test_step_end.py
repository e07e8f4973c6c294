"""The end of a step against rows in plain Python: tokens, flags, statistics, and where the text may end."""

import math
import random

import numpy as np
import pytest
import torch

from endmark.jobs.landing import LANDED, START, STATES
from endmark.jobs.strategies import ScoreNumbers, build_strategies, score_numbers
from endmark.worker.engine.flags import FORCED, HIDDEN, INSERTED, NATURAL
from endmark.worker.engine.layout import SLOT
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.steering import Insertion, Phase
from endmark.worker.engine.step_end import StepEnd
from tests.engine.test_sampler import SAMPLINGS, kept, noise, stream_key

pytestmark = pytest.mark.engine

V, EOS, CLOSE = 60, [3, 9], (50, 51)
TABLE = torch.randint(0, STATES, (STATES, V), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
TABLE[:, ::3] = LANDED
NUMBERS = [
    ScoreNumbers(),
    *(
        score_numbers(build_strategies([text]), 8)
        for text in (
            "eos-reward:start=0.1",
            "soft-landing:start=0.1,firm=0.9",
            "exp-decay:start=0.1",
            "eos-reward-published",
            "deadline:start=0.1,firm=0.5",
        )
    ),
]


def shaped(scores, ends, numbers, n, ended):
    """One row's scores after its strategies, as `ScoreNumbers` has them; and whether they may have changed any."""
    others = [token for token in range(V) if token not in ends]
    found, own = list(scores), {token: scores[token] for token in ends}
    changed = False
    if not math.isnan(numbers.ratio):
        changed = True
        own = dict.fromkeys(ends, 100.0)
        for token in others:
            rate = 1 / math.e if scores[token] > 0 else math.e
            found[token] = scores[token] * numbers.ratio * 100 * rate * rate
    if numbers.factor != 1:
        growth = min(numbers.factor ** max(0.0, n - numbers.start), 1e30)
        own = {token: score + abs(score) * (growth - 1) for token, score in own.items()}
        changed |= n > numbers.start
    if numbers.full > numbers.start and (ended or not numbers.after_sentence):
        rise = min(max((n - numbers.start) / (numbers.full - numbers.start), 0), 1)
        ramp = rise**numbers.power
        if numbers.bar > 0:
            most = max(scores)
            share = sum(math.exp(scores[token] - most) for token in ends)
            share /= sum(math.exp(score - most) for score in scores)
            ramp = float(rise >= 1 or (rise > 0 and share >= math.exp(-numbers.bar * rise**0.25)))
        bar = max(found[token] for token in others) + numbers.margin
        own = {token: score + ramp * max(0.0, bar - score) if ramp else score for token, score in own.items()}
        changed |= n > numbers.start
    forced = numbers.force_at == n
    if forced and any(scores[token] > -math.inf for token in ends):
        found = [-math.inf] * V
    for token, score in own.items():
        found[token] = score if scores[token] > -math.inf else -math.inf
    return found, changed or forced, forced


def drawn(scores, sampling, key, position):
    """The row's token, and whether no end token was left to be drawn."""
    if not sampling.temperature:
        return max(range(V), key=scores.__getitem__), all(scores[token] == -math.inf for token in EOS)
    left = [token for token in kept(scores, sampling) if scores[token] > -math.inf]
    noisy = {token: scores[token] / sampling.temperature + noise(key, position, token) for token in left}
    return max(noisy, key=noisy.__getitem__), not set(EOS) & set(left)


class Row:
    """One row from step to step."""

    def __init__(self, rng, slot):
        self.slot, self.stream = slot, rng.randrange(1000)
        self.sampling, self.numbers = rng.choice(SAMPLINGS), rng.choice(NUMBERS)
        self.state = rng.choice([START, LANDED])
        self.phase = Phase(CLOSE, numbers=rng.choice(NUMBERS), restarts=rng.random() < 0.5)
        self.phase = self.phase if rng.random() < 0.4 else None
        self.insertion = Insertion((50, 20, 3), at=rng.randrange(6)) if rng.random() < 0.3 else None
        self.allowed = {*rng.sample(range(V), 30)} if rng.random() < 0.3 else None
        self.is_open, self.origin = self.phase is not None, 0

    def admitted(self):
        mask = None
        if self.allowed is not None:
            bits = np.zeros(64, np.uint8)
            bits[[*self.allowed]] = 1
            mask = np.packbits(bits, bitorder="little").view(np.int32)
        return PrefillRow(
            self.slot, [5], 0, [0], 0, 0,
            sampling=self.sampling, numbers=self.numbers, stream=self.stream, sentence_state=self.state,
            phase=self.phase, phase_open=self.is_open, insertion=self.insertion, mask=mask,
        )  # fmt: skip

    def step(self, raw, n, position, told):
        """What the row's step gives: token, EOS mass and rank, flags."""
        most = max(raw)
        mass = sum(math.exp(raw[token] - most) for token in EOS) / sum(math.exp(score - most) for score in raw)
        rank = sum(score > max(raw[token] for token in EOS) for score in raw)
        scores = [
            score if self.allowed is None or token in self.allowed else -math.inf
            for token, score in enumerate(raw)
        ]
        ends = CLOSE if self.is_open else EOS
        numbers = self.phase.numbers if self.is_open else self.numbers
        after, changed, forced = shaped(scores, ends, numbers, n - self.origin, self.state >= LANDED)
        key = stream_key(self.sampling.seed, self.stream)
        token, hidden = drawn(after, self.sampling, key, position)
        if {token, told} <= {*ends} and abs(after[token] - after[told]) < 1e-3:
            token = told  # ends that were raised to one bar are equal but for their last digits
        flags = 0 if changed else NATURAL
        if changed and token in {*ends, *EOS}:
            without = drawn(scores, self.sampling, key, position)[0]
            kind = ends if token in ends else EOS
            flags = NATURAL if without in kind else FORCED if forced else 0
        shut = self.allowed is not None and not self.allowed & {*EOS}
        flags |= HIDDEN if hidden and not (shut and rank) else 0
        return self.steered(token, flags, n), mass, rank

    def steered(self, token, flags, n):
        """Put in what is to be put in, end the phase, and follow the text; return the token and its flags."""
        was_open, put = self.is_open, self.insertion is not None and self.insertion.covers(n)
        if put:
            drawn_token, token = token, self.insertion.token_ids[n - self.insertion.at]
            kinds = (CLOSE, EOS) if was_open else (EOS,)
            alike = any(token in kind and drawn_token in kind for kind in kinds)
            flags = INSERTED | FORCED | flags & HIDDEN | (flags & NATURAL if alike else 0)
        if was_open and token in CLOSE:
            self.is_open = False
            self.origin = n + 1 if self.phase.restarts else 0
            self.insertion = self.insertion if put else None
        self.state = START if was_open != self.is_open else int(TABLE[self.state, token])
        return token, flags


@pytest.mark.parametrize("seed", range(24))
def test_a_step_ends_as_each_of_its_rows_would_by_itself(seed):
    """Strategies, sampling, masks, phases and insertions in one batch; an end token does not stop them here."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    rows = [Row(rng, slot) for slot in rng.sample(range(16), 12)]
    end = StepEnd(torch.tensor(EOS), 16, TABLE, torch.device("cpu"))
    for row in rows:
        end.admit(row.admitted())
    for n in range(8):
        rng.shuffle(rows)
        logits = torch.randn(len(rows), V, generator=generator) * 3
        logits[:, EOS] += rng.choice([-4, 0, 4])
        positions = [100 * row.slot + n for row in rows]
        looks = any((row.phase.numbers if row.is_open else row.numbers).after_sentence > 0 for row in rows)
        states = [row.state for row in rows]
        slots, steps = torch.tensor([row.slot for row in rows]), torch.full((len(rows),), n)
        result = end.draw(logits, logits, slots, steps, torch.tensor(positions))
        for at, row in enumerate(rows):
            (token, flags), mass, rank = row.step(logits[at].tolist(), n, positions[at], result.token_ids[at])
            assert (result.token_ids[at], result.flags[at]) == (token, flags), (n, row.slot)
            assert result.eos_probs[at] == pytest.approx(mass, rel=1e-4, abs=1e-9)
            assert result.eos_ranks[at] == rank
            if not looks:
                row.state = states[at]
            assert SLOT.of(end.records[row.slot], "landing") == row.state
            assert SLOT.of(end.records[row.slot], "last") == token
