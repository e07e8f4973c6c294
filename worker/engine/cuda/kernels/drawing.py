"""Drawing a row's token on the device: noise, the strategies' arithmetic, and the kept set by bisection.

Top-k and top-p find their thresholds over the bits of the scores, which stay in the card's cache. The arithmetic
is that of `worker.engine.scores` and the random numbers those of `worker.engine.sampler`, bit for bit.
"""

import triton
import triton.language as tl

_E, _INVERSE_E = tl.constexpr(2.718281828459045), tl.constexpr(0.36787944117144233)


@triton.jit
def _mix(value):
    """Scramble 32 bits (the finaliser of MurmurHash3)."""
    value = (value ^ (value >> 16)) * 0x85EBCA6B
    value = (value ^ (value >> 13)) * 0xC2B2AE35
    return value ^ (value >> 16)


@triton.jit
def _gumbel(key, position, tokens):
    """Return the noise of some tokens at a position of a row."""
    row = _mix(key + position.to(tl.uint32) * 0x9E3779B9)
    bits = _mix(_mix(row ^ (tokens.to(tl.uint32) * 0x9E3779B1)) ^ key)
    # The largest would be rounded to 1, whose noise is infinite: that token would be drawn whatever its score.
    uniform = tl.minimum(((bits >> 8).to(tl.float32) + 0.5) * 5.9604644775390625e-08, 0.999999940395355224609375)
    return -tl.log(-tl.log(uniform))


@triton.jit
def published_pass(x, ratio):
    """One pass of the published arithmetic, its products in the printed order."""
    constant = tl.where(x > 0, _INVERSE_E, tl.where(x < 0, _E, 1.0))
    return x * ratio * 10 * constant


@triton.jit
def _other(x, ratio, published, forced):
    """Return the scores of tokens that are no EOS, after the strategies."""
    if published:
        x = published_pass(published_pass(x, ratio), 1.0)
    return tl.where(forced, -float("inf"), x)


@triton.jit
def raised_eos(raw, best_other, growth, ramp, margin, published):
    """Return the score of an EOS id after the strategies, an excluded one as it is; `best_other` unforced."""
    score = tl.where(published, 100.0, raw)
    score = score + tl.abs(score) * (growth - 1.0)
    lift = tl.maximum(best_other + margin - score, 0.0)
    raised = score + tl.where(ramp > 0, ramp * lift, 0.0)
    return tl.where(raw == -float("inf"), raw, raised)


@triton.jit
def ordered(x):
    """Return fp32 as unsigned integers of the same order."""
    bits = x.to(tl.int32, bitcast=True)
    flipped = tl.where(bits < 0, ~bits, bits ^ -2147483648)
    return flipped.to(tl.uint32, bitcast=True)


@triton.jit
def kept_scores(
    row_ptr, offs, mask, ids_ptr, temperature, ratio, published, forced,
    best_other, growth, ramp, margin, E: tl.constexpr,
):  # fmt: skip
    """Return a block of scores over temperature."""
    x = tl.load(row_ptr + offs, mask=mask, other=-float("inf")).to(tl.float32)
    scores = _other(x, ratio, published, forced)
    raised = raised_eos(x, best_other, growth, ramp, margin, published)
    for index in tl.static_range(E):
        scores = tl.where(offs == tl.load(ids_ptr + index), raised, scores)
    return tl.where(mask, tl.math.div_rn(scores, temperature), -float("inf"))


@triton.jit
def _top_k_floor(
    row_ptr, V, ids_ptr, temperature, top_k, ratio, published, forced,
    best_other, growth, ramp, margin, E: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the k-th highest score's bits, by bisection."""
    lanes = tl.arange(0, BLOCK)
    wanted = tl.minimum(top_k, V)
    floor = tl.full([], 0, tl.uint32)
    bit = tl.full([], 0x80000000, tl.uint32)
    for _ in range(32):
        candidate = floor | bit
        bit = bit >> 1
        count = tl.zeros([BLOCK], tl.int32)
        for start in range(0, V, BLOCK):
            offs = start + lanes
            s = kept_scores(
                row_ptr, offs, offs < V, ids_ptr, temperature, ratio, published, forced,
                best_other, growth, ramp, margin, E,
            )  # fmt: skip
            count += ((ordered(s) >= candidate) & (offs < V)).to(tl.int32)
        if tl.sum(count, 0) >= wanted:
            floor = candidate
    return floor


@triton.jit
def _mass_above(
    row_ptr, V, ids_ptr, temperature, above, floor, ratio, published, forced,
    best_other, growth, ramp, margin, highest, E: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the sum of exp(score - highest) over the scores above some bits and not below the floor's."""
    lanes = tl.arange(0, BLOCK)
    mass = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        offs = start + lanes
        s = kept_scores(
            row_ptr, offs, offs < V, ids_ptr, temperature, ratio, published, forced,
            best_other, growth, ramp, margin, E,
        )  # fmt: skip
        order = ordered(s)
        mass += tl.where((order > above) & (order >= floor) & (offs < V), tl.exp(s - highest), 0.0)
    return tl.sum(mass, 0)


@triton.jit
def draw(
    row_ptr, V, ids_ptr, temperature, top_k, top_p, min_p, key, position, ratio, published, forced,
    best_other, growth, ramp, margin, highest, E: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the token drawn from the kept set, and the bits of the set's lowest score over temperature."""
    lanes = tl.arange(0, BLOCK)
    floor = tl.full([], 0, tl.uint32)
    if top_k > 0:
        floor = _top_k_floor(
            row_ptr, V, ids_ptr, temperature, top_k, ratio, published, forced,
            best_other, growth, ramp, margin, E, BLOCK,
        )  # fmt: skip
    if top_p < 1.0:
        nothing = tl.full([], 0, tl.uint32)  # below the bits of every number
        wanted = top_p * _mass_above(
            row_ptr, V, ids_ptr, temperature, nothing, floor, ratio, published, forced,
            best_other, growth, ramp, margin, highest, E, BLOCK,
        )  # fmt: skip
        above = tl.full([], 0, tl.uint32)  # the highest bits above which at least the wanted mass lies
        bit = tl.full([], 0x80000000, tl.uint32)
        for _ in range(32):
            candidate = above | bit
            bit = bit >> 1
            mass = _mass_above(
                row_ptr, V, ids_ptr, temperature, candidate, floor, ratio, published, forced,
                best_other, growth, ramp, margin, highest, E, BLOCK,
            )  # fmt: skip
            if mass >= wanted:
                above = candidate
        floor = tl.maximum(floor, above + 1)
    if min_p > 0.0:
        floor = tl.maximum(floor, ordered(highest + tl.log(min_p)))
    best = tl.full([BLOCK], -float("inf"), tl.float32)
    chosen = tl.zeros([BLOCK], tl.int32)
    for start in range(0, V, BLOCK):
        offs = start + lanes
        s = kept_scores(
            row_ptr, offs, offs < V, ids_ptr, temperature, ratio, published, forced,
            best_other, growth, ramp, margin, E,
        )  # fmt: skip
        s = tl.where(ordered(s) >= floor, s + _gumbel(key, position, offs), -float("inf"))
        better = s > best
        best = tl.where(better, s, best)
        chosen = tl.where(better, offs, chosen)
    top = tl.max(best, 0)
    return tl.min(tl.where(best == top, chosen, V), 0), floor
