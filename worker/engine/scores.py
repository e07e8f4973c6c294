"""What the device step does to the scores, row by row: the arithmetic of `jobs.strategies.ScoreNumbers`.

Every function takes raw fp32 logits of shape (R, V) and per-row numbers of shape (R, NUMBERS).
"""

import math
from dataclasses import astuple, fields

import torch
from torch import Tensor

from endmark.jobs.strategies import ScoreNumbers

NUMBERS = len(fields(ScoreNumbers))
START, FULL, POWER, MARGIN, AFTER_SENTENCE, FACTOR, RATIO, FORCE_AT = range(NUMBERS)
_LARGEST_GROWTH = 1e30


def as_floats(numbers: ScoreNumbers) -> list[float]:
    """Return the numbers in the order of the columns above."""
    return [float(value) for value in astuple(numbers)]


def eos_statistics(logits: Tensor, eos_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the EOS mass in the softmax of each row, and how many tokens score above the best EOS id.

    Args:
        logits: (R, V) raw fp32.
        eos_ids: (E,) int64.

    Returns:
        Two tensors of shape (R,), fp32 and int64. The mass is NaN where the scores are no numbers: where one is
        NaN or plus infinity, or all are minus infinity.
    """
    eos = logits[:, eos_ids]
    whole = torch.logsumexp(logits, -1)
    prob = torch.exp(torch.logsumexp(eos, -1) - torch.where(whole == torch.inf, torch.nan, whole))
    rank = (logits > eos.amax(-1, keepdim=True)).sum(-1)
    return prob, rank


def shape_scores(logits: Tensor, eos_ids: Tensor, numbers: Tensor, steps: Tensor, ended: Tensor) -> Tensor:
    """Return the scores after the strategies; see `ScoreNumbers` for the order and the formulas.

    Args:
        logits: (R, V) raw fp32.
        eos_ids: (E,) int64.
        numbers: (R, NUMBERS) fp32.
        steps: (R,) the n of each row.
        ended: (R,) bool, whether the text may end here: a landing spot.

    Returns:
        (R, V) fp32; the input is left as it is.
    """
    column = numbers.unbind(-1)
    n = steps.to(logits.dtype)
    scores, eos = logits.clone(), logits[:, eos_ids]
    published = ~column[RATIO].isnan().unsqueeze(-1)
    if bool(published.any()):
        _publish(scores, column[RATIO].unsqueeze(-1))
        eos = torch.where(published, 100.0, eos)
        if not bool(published.all()):
            scores = torch.where(published, scores, logits)
    if bool((column[FACTOR] != 1.0).any()):
        exponent = (n - column[START]).clamp(min=0.0)
        growth = column[FACTOR].pow(exponent).clamp(max=_LARGEST_GROWTH)
        eos = eos + eos.abs() * (growth - 1.0).unsqueeze(-1)
    span = column[FULL] - column[START]
    if bool((span > 0).any()):
        scores[:, eos_ids] = -torch.inf
        best_other = scores.amax(-1)
        ramp = ((n - column[START]) / span.clamp(min=1e-9)).clamp(0.0, 1.0).pow(column[POWER])
        ramp = torch.where((span > 0) & (ended | (column[AFTER_SENTENCE] == 0)), ramp, 0.0)
        lift = ((best_other + column[MARGIN]).unsqueeze(-1) - eos).clamp(min=0.0)
        eos = eos + torch.where(ramp.unsqueeze(-1) > 0, ramp.unsqueeze(-1) * lift, 0.0)
    forced = forced_rows(numbers, steps)
    if bool(forced.any()):
        scores[forced] = -torch.inf
    scores[:, eos_ids] = eos
    return scores


def _publish(scores: Tensor, ratio: Tensor) -> None:
    """Change the scores by both passes of the published arithmetic, their products in the printed order."""
    # Two constants and not torch.exp, whose last digit differs between devices. No product changes a sign, so
    # both passes have the same c, and one with the second ratio, 1, is exact. Each sign goes by itself, since
    # `where` on two constants takes longer on a CPU than all of this; the sum with 0 is exact.
    negative = scores.clamp(max=0.0)
    for part, c in ((scores.clamp_(min=0.0), 1 / math.e), (negative, math.e)):
        part.mul_(ratio).mul_(10).mul_(c).mul_(10).mul_(c)
    scores.add_(negative)


def changed_rows(numbers: Tensor, steps: Tensor, ended: Tensor) -> Tensor:
    """Return (R,) bool: the rows whose scores `shape_scores` would change at this step; arguments as there."""
    column = numbers.unbind(-1)
    later = steps > column[START]
    ramp = (column[FULL] > column[START]) & (ended | (column[AFTER_SENTENCE] == 0))
    decay = column[FACTOR] != 1.0
    return (later & (ramp | decay)) | ~column[RATIO].isnan() | forced_rows(numbers, steps)


def forced_rows(numbers: Tensor, steps: Tensor) -> Tensor:
    """Return (R,) bool: the rows in which a strategy leaves nothing but EOS at this step."""
    return numbers[:, FORCE_AT] == steps.to(numbers.dtype)
