"""Drawing tokens: temperature, top-k, top-p, min-p and counter-based random numbers.

A token is the argmax of ``score / temperature + g`` over the kept set, with Gumbel noise g made from
(seed, stream, position, token) alone: which rows share a batch changes nothing, and whether EOS would have been
chosen without a strategy is told by the same noise over the raw scores.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from endmark.worker.engine.layout import SLOT

_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Draw:
    """How each row draws its token; all tensors of shape (R,)."""

    temperature: Tensor  # fp32, 0 for greedy
    top_k: Tensor  # int64, 0 for all
    top_p: Tensor  # fp32
    min_p: Tensor  # fp32
    key: Tensor  # int64: 32 bits of (seed, stream)
    position: Tensor  # int64

    @classmethod
    def of(cls, records: Tensor, positions: Tensor) -> "Draw":
        """Return the draw of rows with these records, (R, SLOT.width) int32, and positions, (R,) int64."""
        return cls(
            temperature=SLOT.of(records, "temperature"),
            top_k=SLOT.of(records, "top_k").long(),
            top_p=SLOT.of(records, "top_p"),
            min_p=SLOT.of(records, "min_p"),
            key=SLOT.of(records, "key").long() & _MASK,
            position=positions,
        )

    def select(self, rows: Tensor | slice) -> "Draw":
        """Return the draw of some of the rows."""
        return Draw(*(getattr(self, item.name)[rows] for item in fields(self)))


def stream_key(seed: int, stream: int) -> int:
    """Return 32 bits for a row's random numbers."""
    value = (seed * 0x9E3779B97F4A7C15 + stream * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & (2**64 - 1)
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
    return (value ^ (value >> 31)) & _MASK


def _mix(value: Tensor) -> Tensor:
    """Scramble 32-bit integers held in int64 (the finaliser of MurmurHash3)."""
    value = (value ^ (value >> 16)) * 0x85EBCA6B & _MASK
    value = (value ^ (value >> 13)) * 0xC2B2AE35 & _MASK
    return value ^ (value >> 16)


def gumbel(key: Tensor, position: Tensor, vocabulary: int) -> Tensor:
    """Return Gumbel noise of shape (R, vocabulary), fp32, from 24 random bits a token."""
    tokens = torch.arange(vocabulary, device=key.device, dtype=torch.int64)
    row = _mix((key + position * 0x9E3779B9) & _MASK)
    bits = _mix(_mix((row.unsqueeze(-1) ^ (tokens * 0x9E3779B1 & _MASK)) & _MASK) ^ key.unsqueeze(-1))
    # The largest would be rounded to 1, whose noise is infinite: that token would be drawn whatever its score.
    uniform = (((bits >> 8).to(torch.float32) + 0.5) * 2.0**-24).clamp(max=1 - 2.0**-24)
    return -torch.log(-torch.log(uniform))


def keep(scores: Tensor, draw: Draw) -> Tensor:
    """Return the scores over temperature, minus infinity outside the rows' top-k, top-p and min-p sets."""
    scaled = scores / draw.temperature.unsqueeze(-1)
    widest = int(draw.top_k.max())
    if widest > 0:
        widest = min(widest, scaled.shape[-1])
        top = torch.topk(scaled, widest, dim=-1).values
        last = (draw.top_k.clamp(1, widest) - 1).unsqueeze(-1)
        floor = torch.where(draw.top_k.unsqueeze(-1) > 0, top.gather(-1, last), -torch.inf)
        scaled = scaled.masked_fill(scaled < floor, -torch.inf)
    if bool((draw.top_p < 1.0).any()):
        ordered = scaled.sort(-1, descending=True).values
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        kept = (before < draw.top_p.unsqueeze(-1)).sum(-1, keepdim=True).clamp(min=1)
        floor = torch.where(draw.top_p.unsqueeze(-1) < 1.0, ordered.gather(-1, kept - 1), -torch.inf)
        scaled = scaled.masked_fill(scaled < floor, -torch.inf)
    if bool((draw.min_p > 0.0).any()):
        floor = (scaled.amax(-1) + draw.min_p.log()).unsqueeze(-1)
        scaled = scaled.masked_fill(scaled < floor, -torch.inf)
    return scaled


def choose(scores: Tensor, draw: Draw, eos_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's token, and whether top-k, top-p or min-p left it no EOS id.

    Args:
        scores: (R, V) fp32, after the strategies.
        draw: how the rows draw.
        eos_ids: (E,) int64.

    Returns:
        (R,) int64 and (R,) bool.
    """
    tokens = _best(scores)
    hidden = scores[:, eos_ids].amax(-1) == -torch.inf
    rows = draw.temperature.nonzero().squeeze(-1)
    if rows.numel() == 0:
        return tokens, hidden
    some = draw.select(rows)
    kept = keep(scores[rows], some)
    tokens[rows] = _best(kept + gumbel(some.key, some.position, scores.shape[-1]))
    hidden[rows] = kept[:, eos_ids].amax(-1) == -torch.inf
    return tokens, hidden


def _best(scores: Tensor) -> Tensor:
    """Return the first of the highest in each row, (R,) int64."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(-1))  # a tenth of the time that torch takes
    return scores.argmax(-1)
