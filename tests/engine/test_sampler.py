"""Drawing tokens against plain Python, a row at a time: random numbers in whole ones, kept sets as defined."""

import math
import random
import struct

import pytest
import torch

from endmark.jobs.sampling import Sampling
from endmark.worker.engine.layout import SLOT, sampling_values
from endmark.worker.engine.sampler import Draw, choose, gumbel, keep, stream_key
from endmark.worker.engine.scores import Questions, asked_scores, best_scores

pytestmark = pytest.mark.engine

V = 40
WORD = 2**32


def murmur(value):
    """The finaliser of MurmurHash3, as its author has it."""
    value ^= value >> 16
    value = value * 0x85EBCA6B % WORD
    value ^= value >> 13
    value = value * 0xC2B2AE35 % WORD
    return value ^ value >> 16


def noise(key, position, token):
    """One token's Gumbel noise: a number of 24 bits, in the middle of its step, but for the last below 1."""
    row = murmur((key + position * 0x9E3779B9) % WORD)
    bits = murmur(murmur(row ^ token * 0x9E3779B1 % WORD) ^ key) >> 8
    return -math.log(-math.log(min(single(bits + 0.5) / 2**24, 1 - 2**-24)))


def single(value):
    """The fp32 number that is nearest."""
    return struct.unpack("f", struct.pack("f", value))[0]


def kept(scores, sampling):
    """The tokens that a row may draw, best first: the top-k, of those the top-p, of those the min-p."""
    scaled = [score / sampling.temperature for score in scores]
    order = sorted(range(len(scores)), key=lambda token: -scaled[token])
    if sampling.top_k:
        order = order[: sampling.top_k]

    def shares():
        most = scaled[order[0]]
        masses = [math.exp(scaled[token] - most) for token in order]
        return [mass / sum(masses) for mass in masses]

    if sampling.top_p < 1:
        own = shares()
        order = [token for at, token in enumerate(order) if sum(own[:at]) < sampling.top_p or not at]
    own = shares()
    return [token for token, share in zip(order, own, strict=True) if share >= sampling.min_p * own[0]]


SAMPLINGS = [
    Sampling(0.7, seed=3),
    Sampling(1.0, top_k=1, seed=4),
    Sampling(1.3, top_k=7, seed=5),
    Sampling(0.5, top_k=V + 9, seed=6),
    Sampling(0.9, top_p=0.8, seed=7),
    Sampling(2.0, top_p=0.05, seed=8),
    Sampling(1.1, min_p=0.2, seed=9),
    Sampling(1.5, top_k=20, top_p=0.7, min_p=0.1, seed=10),
    Sampling(0, top_k=5, top_p=0.5, min_p=0.3),
]


def draw_of(samplings, positions, streams):
    """Return how rows draw, through their records as the device has them."""
    packed = [
        SLOT.pack(sampling_values(item) | {"key": stream_key(item.seed, stream)})
        for item, stream in zip(samplings, streams, strict=True)
    ]
    return Draw.of(torch.stack([torch.from_numpy(item) for item in packed]), torch.tensor(positions))


@pytest.mark.parametrize("seed", range(20))
def test_rows_draw_as_a_few_lines_of_python_do(seed):
    """Each row with its own parameters, among others and alone."""
    rng = random.Random(seed)
    samplings = [rng.choice(SAMPLINGS) for _ in range(rng.choice([1, 9]))]
    positions = [rng.choice([0, 1, 255, 70_000]) for _ in samplings]
    scores = torch.randn(len(samplings), V, generator=torch.Generator().manual_seed(seed)) * rng.choice([1, 5])
    scores[:, rng.randrange(V)] = -torch.inf
    eos_ids = sorted(rng.sample(range(V), rng.choice([1, 3])))
    draw = draw_of(samplings, positions, range(len(samplings)))
    tokens, hidden = choose(scores, draw, torch.tensor(eos_ids))
    for row, sampling in enumerate(samplings):
        own = scores[row].tolist()
        if not sampling.temperature:
            assert tokens[row] == max(range(V), key=own.__getitem__)
            assert hidden[row] == all(own[token] == -math.inf for token in eos_ids)
            continue
        allowed = kept(own, sampling)
        key = stream_key(sampling.seed, row)
        found = {token: own[token] / sampling.temperature + noise(key, positions[row], token) for token in allowed}
        assert tokens[row] == max(found, key=found.__getitem__)
        assert hidden[row] == all(token not in allowed or own[token] == -math.inf for token in eos_ids)
        if all(item.temperature for item in samplings):
            left = keep(scores, draw)[row]
            assert sorted(left.isfinite().nonzero().flatten().tolist()) == sorted(
                token for token in allowed if own[token] > -math.inf
            )
            assert left[allowed].tolist() == pytest.approx(
                [own[token] / sampling.temperature for token in allowed]
            )


@pytest.mark.parametrize("position", [0, 1, 4095, 10**6])
@pytest.mark.parametrize("stream", [0, 9])
def test_noise_is_made_of_24_bits_of_key_position_and_token(position, stream):
    key = stream_key(11, stream)
    found = gumbel(torch.tensor([5, key]), torch.tensor([3, position]), 600)
    assert found.dtype == torch.float32
    expected = [noise(key, position, token) for token in range(600)]
    assert found[1].tolist() == pytest.approx(expected, rel=2e-5, abs=2e-6)
    assert found[0].tolist() == pytest.approx([noise(5, 3, token) for token in range(600)], rel=2e-5, abs=2e-6)


def test_a_row_s_key_is_the_low_half_of_splitmix64():
    for seed, stream in ((0, 0), (7, 3), (2**31, 10**9), (123456789, 1)):
        value = (seed * 0x9E3779B97F4A7C15 + stream * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        assert stream_key(seed, stream) == (value ^ value >> 31) % WORD


def test_a_key_of_32_bits_is_read_without_a_sign():
    record = torch.from_numpy(SLOT.pack({"key": WORD - 5})).unsqueeze(0)
    assert Draw.of(record, torch.tensor([0])).key.tolist() == [WORD - 5]


def test_chosen_rows_draw_as_they_would_among_all():
    draw = draw_of(SAMPLINGS, range(len(SAMPLINGS)), range(len(SAMPLINGS)))
    some = draw.select(torch.tensor([6, 2]))
    assert some.temperature.tolist() == pytest.approx([1.1, 1.3])
    assert (some.top_k.tolist(), some.position.tolist()) == ([0, 7], [6, 2])
    assert some.key.tolist() == [stream_key(9, 6), stream_key(5, 2)]
    assert (some.min_p.tolist(), some.top_p.tolist()) == (pytest.approx([0.2, 0.0]), [1.0, 1.0])


def log_shares(scores):
    most = max(scores)
    whole = most + math.log(sum(math.exp(score - most) for score in scores))
    return [score - whole for score in scores]


def test_what_is_asked_is_each_tokens_share_of_its_own_row():
    logits = torch.randn(6, V, generator=torch.Generator().manual_seed(4)) * 3
    asked = {4: [7, 3, 3], 0: [39], 2: [0, 1]}
    expected = [log_shares(logits[row].tolist())[token] for row, ids in asked.items() for token in ids]
    told = asked_scores(logits, asked)
    assert told.dtype == torch.float32
    assert told.tolist() == pytest.approx(expected, abs=1e-5)
    half = asked_scores(logits.bfloat16(), asked)
    assert half.dtype == torch.float32
    rounded = logits.bfloat16().float()
    assert half.tolist() == pytest.approx(
        [log_shares(rounded[row].tolist())[token] for row, ids in asked.items() for token in ids], abs=1e-5
    )


def test_answers_go_to_those_who_have_asked():
    """Those behind the last tokens come first; of the others each is of the row that stands for it."""
    questions = Questions({0: [7, 8], 2: [5], 3: [1], 4: [2, 3], 5: [9]}, before=[2, 2, 0])
    found, before = questions.answered([0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5], 3)
    assert found == {0: (0.5, 1.5), 2: (2.5,)}
    assert before == {2: ((3.5,), (4.5, 5.5)), 0: ((6.5,),)}


@pytest.mark.parametrize("vocabulary", [7, 300])
def test_the_best_scores_are_those_of_a_sorted_row(vocabulary):
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(5)) * 3
    drawn = torch.tensor([2, 6, 0])
    block = best_scores(logits, drawn)
    most = min(20, vocabulary)
    assert block.shape == (2, 3, 1 + most)
    ids, log_probs = block[0], block[1].view(torch.float32)
    for row in range(3):
        shares = log_shares(logits[row].tolist())
        best = sorted(range(vocabulary), key=lambda token: -shares[token])[:most]
        assert ids[row].tolist() == [int(drawn[row]), *best]
        assert log_probs[row].tolist() == pytest.approx([shares[token] for token in ids[row].tolist()], abs=1e-5)
