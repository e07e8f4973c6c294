"""The Triton kernels against a few lines of PyTorch; `TRITON_INTERPRET=1` runs them on a CPU."""

import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; these tests are for GPU machines")

from endmark.worker.engine.cuda import tiles
from endmark.worker.engine.cuda.kernels.cache_write import copy_fronts, write_cache
from endmark.worker.engine.cuda.kernels.decode_attention import decode_attention
from endmark.worker.engine.cuda.kernels.gated import GELU_TANH, SILU, gated
from endmark.worker.engine.cuda.kernels.gathered_attention import (
    Chunks,
    Gathered,
    GatheredTiles,
    GatherRoom,
    gathered_attention,
)
from endmark.worker.engine.cuda.kernels.norms import rms_norm
from endmark.worker.engine.cuda.kernels.prefill_attention import Tiles, prefill_attention

pytestmark = pytest.mark.gpu

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
HALF = torch.float16 if INTERPRETED else torch.bfloat16  # Triton's interpreter multiplies no matrices in bf16
HAS_TMA = INTERPRETED or (torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9)
PAGE, WIDTH = 16, 8
CASES = [
    pytest.param(4, 4, 64, None, None, id="64"),
    pytest.param(4, 4, 80, 20, None, id="80-window"),
    pytest.param(4, 2, 96, None, 30.0, id="96-groups-softcap"),
    pytest.param(8, 2, 128, 33, None, id="128-groups-window"),
    pytest.param(4, 4, 128, None, None, id="128"),
    pytest.param(2, 1, 256, None, None, id="256-groups"),
    pytest.param(2, 2, 256, None, 50.0, id="256-softcap"),
]


def error(got, want):
    return ((got.float() - want.float()).norm() / want.float().norm()).item()


def random(*shape, seed, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def ints(values):
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def attention(query, key, value, window, softcap, positions, scale=0.1):
    """Whole-matrix attention of (Q, heads, D) over (N, KV heads, D) in fp64."""
    group = query.shape[1] // key.shape[1]
    query = query.double()
    key, value = (x.double().repeat_interleave(group, 1) for x in (key, value))
    scores = torch.einsum("qhd,nhd->hqn", query, key) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    at, positions = torch.arange(len(key), device=DEVICE), positions.to(DEVICE)
    mask = at <= positions[:, None]
    if window:
        mask &= at > positions[:, None] - window
    return torch.einsum("hqn,nhd->qhd", scores.masked_fill(~mask, -torch.inf).softmax(-1), value)


def of_row(pool, tables, slot, length):
    """A row's keys or values, (length, KV heads, D)."""
    return pool[tables[slot].long()].transpose(1, 2).reshape(-1, pool.shape[1], pool.shape[3])[:length]


def cache(kv_heads, size, seed=1, dtype=torch.float32):
    tables = torch.randperm(3 * WIDTH, generator=torch.Generator().manual_seed(seed)).view(3, WIDTH)
    pools = [random(3 * WIDTH, kv_heads, PAGE, size, seed=seed + index, dtype=dtype) for index in (2, 3)]
    return *pools, tables.to(DEVICE, torch.int32)


@pytest.mark.parametrize(("heads", "kv_heads", "size", "window", "softcap"), CASES)
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (HALF, 1e-2)])
def test_decode_attention(heads, kv_heads, size, window, softcap, splits, dtype, bound):
    keys, values, tables = cache(kv_heads, size, dtype=dtype)
    query, slots, lengths = random(3, heads, size, seed=9, dtype=dtype), [2, 0, 1], [0, 37, 100]
    got = decode_attention(
        query, keys, values, tables, ints(slots), ints(lengths),
        scale=0.1, window=window, softcap=softcap, splits=splits,
    )  # fmt: skip
    for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        key, value = (of_row(pool, tables, slot, length + 1) for pool in (keys, values))
        want = attention(query[row : row + 1], key, value, window, softcap, torch.tensor([length]))
        assert error(got[row : row + 1], want) < bound


@pytest.mark.parametrize("large", [1.0, 60000.0])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 2), (4, 4)])
def test_decode_attention_over_a_cache_in_fp8(heads, kv_heads, large):
    """Also of queries as large as fp16 has them: it multiplies in fp16, and sums of them would be infinite."""
    *pools, tables = cache(kv_heads, 128)
    keys, values = (pool.to(torch.float8_e4m3fn) for pool in pools)
    query = random(3, heads, 128, seed=9).clamp(-1, 1).mul(large).to(HALF)
    got = decode_attention(query, keys, values, tables, ints([2, 0, 1]), ints([0, 37, 100]), scale=0.1 / large)
    for row, (slot, length) in enumerate(((2, 0), (0, 37), (1, 100))):
        key, value = (of_row(pool.float(), tables, slot, length + 1) for pool in (keys, values))
        want = attention(query[row : row + 1], key, value, None, None, torch.tensor([length]), 0.1 / large)
        assert error(got[row : row + 1], want) < 3e-3


@pytest.mark.parametrize(("heads", "kv_heads", "size", "window", "softcap"), CASES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (HALF, 1e-2)])
def test_prefill_attention(heads, kv_heads, size, window, softcap, dtype, bound):
    """Two rows: seventy tokens from the start, and ten behind thirty that are cached."""
    keys, values, tables = cache(kv_heads, size, dtype=dtype)
    query = random(80, heads, size, seed=9, dtype=dtype)
    paged = Tiles(*map(ints, ([2, 2, 0], [0, 64, 70], [64, 6, 10], [0, 64, 30])))
    got = prefill_attention(query, keys, values, tables, paged, scale=0.1, window=window, softcap=softcap)
    for slot, begin, count, position in ((2, 0, 70, 0), (0, 70, 10, 30)):
        key, value = (of_row(pool, tables, slot, position + count) for pool in (keys, values))
        asked = query[begin : begin + count]
        want = attention(asked, key, value, window, softcap, torch.arange(position, position + count))
        assert error(got[begin : begin + count], want) < bound


@pytest.mark.skipif(not HAS_TMA, reason="for Hopper alone")
@pytest.mark.parametrize(("heads", "kv_heads", "size", "window", "softcap"), CASES[:-2])
@pytest.mark.parametrize("kind", [HALF, torch.float8_e4m3fn])
def test_gathered_attention(heads, kv_heads, size, window, softcap, kind):
    """The same rows: keys that are gathered give what pages give, and nothing of what others left there.

    The last chunk and the last tile are those of no row, as a captured step has them: they change nothing.
    """
    keys, values, tables = cache(kv_heads, size, dtype=torch.float32)
    for pool in (keys, values):
        pool[tables[0, 2].long(), :, 8:] = pool[tables[2, 4].long(), :, 6:] = torch.nan  # behind the rows' ends
    keys, values = keys.to(kind), values.to(kind)
    query = random(80, heads, size, seed=9, dtype=HALF)
    gathered = Gathered(
        Chunks(*map(ints, ([2, 0, 0], [0, 0, 0], [70, 40, 0], [0, 128, 0]))),
        GatheredTiles(*map(ints, ([0, 64, 70, 0], [64, 6, 10, 0], [0, 64, 30, 0], [0, 0, 128, 0]))),
        GatherRoom(256),
    )
    options = {"scale": 0.1, "window": window, "softcap": softcap}
    got = gathered_attention(query, keys, values, tables, gathered, **options)
    paged = Tiles(*map(ints, ([2, 2, 0, 0], [0, 64, 70, 0], [64, 6, 10, 0], [0, 64, 30, 0])))
    assert error(got, prefill_attention(query, keys, values, tables, paged, **options)) < 1e-3
    for slot, begin, count, position in ((2, 0, 70, 0), (0, 70, 10, 30)):
        key, value = (of_row(pool, tables, slot, position + count) for pool in (keys, values))
        asked = query[begin : begin + count]
        want = attention(asked, key, value, window, softcap, torch.arange(position, position + count))
        assert error(got[begin : begin + count], want) < 1e-2


@pytest.mark.skipif(not HAS_TMA, reason="for Hopper alone")
@pytest.mark.parametrize("kind", [HALF, torch.float8_e4m3fn])
def test_a_card_tries_gathering_before_it_is_used(kind, monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(tiles, "_LEAST", 192)  # two chunks still, and a sixth of the scores
    keys = random(1, 2, PAGE, 64, seed=1).to(kind)
    assert tiles._difference(HALF, 4, keys, 100) < 1e-3
    assert tiles.room_for(HALF, 4, keys, 100) == (0 if INTERPRETED else 2**28 // (2 * 2 * 64 * 2))
    if not INTERPRETED:
        monkeypatch.setattr(tiles, "_difference", lambda *_: torch.nan)
        assert tiles.room_for(HALF, 4, keys, 100) == 0


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 4, 64), (9, 3, 80), (4, 1, 96), (16, 2, 256)])
@pytest.mark.parametrize("rotary", [True, False])
def test_writing_the_cache(heads, kv_heads, size, rotary):
    keys, values, tables = cache(kv_heads, size)
    merged = random(5, (heads + 2 * kv_heads) * size, seed=4)
    widths = [heads * size, kv_heads * size, kv_heads * size]
    query, key, value = (part.view(5, -1, size) for part in merged.split(widths, -1))
    cos, sin = random(5, size, seed=5), random(5, size, seed=6)
    slots, positions = [2, 2, 0, 1, 1], [3, 4, 77, 0, 20]

    def turned(x):
        half = torch.cat((-x[..., size // 2 :], x[..., : size // 2]), -1)
        return x * cos[:, None] + half * sin[:, None] if rotary else x

    pair = (cos, sin) if rotary else None
    got = write_cache(query, key, value, pair, keys, values, tables, ints(slots), ints(positions))
    assert error(got, turned(query)) < 1e-6
    for token, (slot, position) in enumerate(zip(slots, positions, strict=True)):
        page, place = int(tables[slot, position // PAGE]), position % PAGE
        assert error(keys[page, :, place], turned(key)[token]) < 1e-6
        assert torch.equal(values[page, :, place], value[token])


@pytest.mark.parametrize("kind", [torch.float32, HALF, torch.float8_e4m3fn])
@pytest.mark.parametrize(("heads", "size"), [(2, 128), (1, 80), (1, 1)])
def test_fronts_of_pages_are_copied(heads, size, kind):
    """Also of tokens, one number each, and as bits, whatever numbers they stand for."""
    pool = random(6, heads, PAGE, size, seed=9).to(kind)
    want = pool.clone()
    copied = [(1, 3, 16), (1, 0, 5), (2, 5, 1)]
    for source, page, tokens in copied:
        want[page, :, :tokens] = want[source, :, :tokens]
    copy_fronts(pool, torch.tensor(copied, dtype=torch.int32, device=DEVICE).T.contiguous())
    assert torch.equal(pool.float(), want.float())


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("width", [192, 4096])
def test_norms(offset, width):
    x, residual, weight = random(3, 5, width, seed=1), random(3, 5, width, seed=2), random(width, seed=3)

    def plain(x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (weight + 1 if offset else weight)

    assert error(rms_norm(x, weight, 1e-6, offset=offset)[0], plain(x)) < 1e-6
    got, total = rms_norm(x, weight, 1e-6, offset=offset, residual=residual)
    assert torch.equal(total, x + residual)
    assert error(got, plain(total)) < 1e-6


@pytest.mark.parametrize("size", [0.0, 1e-4])
def test_a_norm_of_almost_nothing_is_bounded_by_its_epsilon(size):
    """Without it a row of zeros is no number, and a row of small ones is as large as any other."""
    x, weight = random(2, 192, seed=1) * size, random(192, seed=3)
    want = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight
    got, _ = rms_norm(x, weight, 1e-6, offset=False)
    assert torch.allclose(got, want, atol=1e-6)
    assert not got.isnan().any()


def test_gates():
    both = random(4, 2200, seed=1)
    gate, up = both.split(1100, -1)
    assert error(gated(both, SILU), torch.nn.functional.silu(gate) * up) < 1e-6
    assert error(gated(both, GELU_TANH), torch.nn.functional.gelu(gate, approximate="tanh") * up) < 1e-6
