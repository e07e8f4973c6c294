"""What one program reads of a row's scores: the best of some ids and of all others, and statistics."""

import triton
import triton.language as tl

from endmark.worker.engine.cuda.kernels.drawing import raised_eos
from endmark.worker.engine.cuda.kernels.steering import is_one_of


@triton.jit
def best_eos(row_ptr, V, ids_ptr, best_other, growth, ramp, margin, published, E: tl.constexpr):
    """Return the best score of an EOS id after the strategies, and which id has it."""
    best, best_token = -float("inf"), V
    for index in tl.static_range(E):
        token = tl.load(ids_ptr + index)
        score = raised_eos(tl.load(row_ptr + token).to(tl.float32), best_other, growth, ramp, margin, published)
        first = (score > best) | ((score == best) & (token < best_token))
        best_token = tl.where(first, token, best_token)
        best = tl.maximum(best, score)
    return best, best_token


@triton.jit
def scan(row_ptr, V, ids_ptr, eos_best, copy, COPY: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr):
    """Read a row's scores once, and write them as fp32 to `copy` if so asked.

    Returns:
        The highest, the sum of exp(score - highest), how many are above the best EOS, the best score that is no
        EOS, and its token.
    """
    lanes = tl.arange(0, BLOCK)
    top = tl.full([BLOCK], -1e38, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    rank = tl.zeros([BLOCK], tl.int32)
    best = tl.full([BLOCK], -float("inf"), tl.float32)
    chosen = tl.full([BLOCK], 0, tl.int32)
    for begin in range(0, V, BLOCK):
        offs = begin + lanes
        x = tl.load(row_ptr + offs, mask=offs < V, other=-float("inf")).to(tl.float32)
        if COPY:
            tl.store(copy + offs, x, mask=offs < V)
        higher = tl.maximum(top, x)
        total = total * tl.exp(top - higher) + tl.exp(x - higher)
        top = higher
        rank += (x > eos_best).to(tl.int32)
        others = tl.where(is_one_of(offs, ids_ptr, E), -float("inf"), x)
        better = others > best
        best = tl.where(better, others, best)
        chosen = tl.where(better, offs, chosen)
    highest = tl.max(top, 0)
    mass = tl.sum(total * tl.exp(top - highest), 0)
    best_raw = tl.max(best, 0)
    return highest, mass, tl.sum(rank, 0), best_raw, tl.min(tl.where(best == best_raw, chosen, V), 0)


@triton.jit
def eos_mass(row_ptr, ids_ptr, highest, E: tl.constexpr):
    """Return the sum of exp(score - highest) over the EOS ids; the first may stand there again as padding."""
    first = tl.load(ids_ptr)
    mass = tl.exp(tl.load(row_ptr + first).to(tl.float32) - highest)
    for index in tl.static_range(1, E):
        token = tl.load(ids_ptr + index)
        part = tl.exp(tl.load(row_ptr + token).to(tl.float32) - highest)
        mass += tl.where(token == first, 0.0, part)
    return mass
