"""What the device step does to the scores, row by row: the arithmetic of `jobs.strategies.ScoreNumbers`.

Every function takes raw fp32 logits of shape (R, V) and the rows' records of shape (R, SLOT.width).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from endmark.jobs.logprobs import MOST
from endmark.worker.engine.layout import SLOT

_LARGEST_GROWTH = 1e30


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


def asked_scores(logits: Tensor, asked: Mapping[int, Sequence[int]]) -> Tensor:
    """Return the log probabilities of the tokens that some rows ask for, as `Questions` reads them: (N,) fp32.

    Args:
        logits: (R, V), as the model gave them.
        asked: the tokens, by the row's index; none of it is empty.
    """
    index = [(row, token_id, of) for of, (row, ids) in enumerate(asked.items()) for token_id in ids]
    rows, tokens, of = _indices(index, logits.device).T
    whole = torch.logsumexp(logits[_indices([*asked], logits.device)].float(), -1)
    return logits[rows, tokens].float() - whole[of]


def _indices(values: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return integers on a device, int64, without waiting for what it computes."""
    there = torch.tensor(values, dtype=torch.int64)
    return (there.pin_memory() if device.type == "cuda" else there).to(device, non_blocking=True)


def best_scores(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return each row's token and the best of its scores with log probabilities, as `told_scores` reads them.

    Args:
        logits: (R, V), as the model gave them.
        tokens: (R,) that were drawn.

    Returns:
        (2, R, 1 + MOST) int32: ids, and the bits of fp32 numbers.
    """
    best, ids = logits.topk(min(MOST, logits.shape[-1]), -1)
    own = tokens.long().unsqueeze(-1)
    whole = torch.logsumexp(logits.float(), -1, keepdim=True)
    log_probs = torch.cat([logits.gather(-1, own), best], -1).float() - whole
    return torch.stack([torch.cat([own, ids], -1).int(), log_probs.view(torch.int32)])


@dataclass(frozen=True, slots=True)
class Questions:
    """What the rows of a step ask about, by row of its logits: those sampled from come first, then others."""

    asked: Mapping[int, Sequence[int]]  # tokens, by row of the logits
    before: Sequence[int] = ()  # the row of the step that each of the other logits is of

    def answered(
        self, told: Sequence[float], sampled: int
    ) -> tuple[dict[int, tuple[float, ...]], dict[int, tuple[tuple[float, ...], ...]]]:
        """Return what `asked_scores` found, as `StepResult` has `asked` and `asked_before`.

        Args:
            sampled: rows that are sampled from.
        """
        values = iter(told)
        found = {row: tuple(next(values) for _ in ids) for row, ids in self.asked.items()}
        before: dict[int, tuple[tuple[float, ...], ...]] = {}
        for index, row in enumerate(self.before, sampled):
            before[row] = (*before.get(row, ()), found.pop(index))
        return found, before


def shape_scores(logits: Tensor, eos_ids: Tensor, records: Tensor, steps: Tensor, ended: Tensor) -> Tensor:
    """Return the scores after the strategies; see `ScoreNumbers` for the order and the formulas.

    Args:
        logits: (R, V) raw fp32.
        eos_ids: (E,) int64.
        records: (R, SLOT.width) int32.
        steps: (R,) the n of each row.
        ended: (R,) bool, whether the text may end here: a landing spot.

    Returns:
        (R, V) fp32; the input is left as it is. An EOS id that is excluded, its score minus infinity, stays so.
    """
    n = steps.to(logits.dtype)
    start, full = SLOT.of(records, "start"), SLOT.of(records, "full")
    factor, ratio = SLOT.of(records, "factor"), SLOT.of(records, "ratio").unsqueeze(-1)
    scores, eos = logits.clone(), logits[:, eos_ids]
    published = ~ratio.isnan()
    if bool(published.any()):
        _publish(scores, ratio)
        eos = torch.where(published, 100.0, eos)
        if not bool(published.all()):
            scores = torch.where(published, scores, logits)
    if bool((factor != 1.0).any()):
        exponent = (n - start).clamp(min=0.0)
        growth = factor.pow(exponent).clamp(max=_LARGEST_GROWTH)
        eos = eos + eos.abs() * (growth - 1.0).unsqueeze(-1)
    span = full - start
    if bool((span > 0).any()):
        scores[:, eos_ids] = -torch.inf
        best_other = scores.amax(-1)
        rise = ((n - start) / span.clamp(min=1e-9)).clamp(0.0, 1.0)
        ramp = rise.pow(SLOT.of(records, "power"))
        bar = SLOT.of(records, "bar")
        if bool((bar > 0).any()):
            share, _ = eos_statistics(logits, eos_ids)
            passes = (rise >= 1.0) | ((rise > 0) & (share >= torch.exp(-bar * rise.sqrt().sqrt())))
            ramp = torch.where(bar > 0, passes.to(ramp.dtype), ramp)
        ramp = torch.where((span > 0) & (ended | (SLOT.of(records, "after_sentence") == 0)), ramp, 0.0)
        lift = ((best_other + SLOT.of(records, "margin")).unsqueeze(-1) - eos).clamp(min=0.0)
        eos = eos + torch.where(ramp.unsqueeze(-1) > 0, ramp.unsqueeze(-1) * lift, 0.0)
    excluded = logits[:, eos_ids] == -torch.inf
    forced = forced_rows(records, steps) & ~excluded.all(-1)
    if bool(forced.any()):
        scores[forced] = -torch.inf
    scores[:, eos_ids] = torch.where(excluded, -torch.inf, eos)
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


def changed_rows(records: Tensor, steps: Tensor, ended: Tensor) -> Tensor:
    """Return (R,) bool: the rows whose scores `shape_scores` would change at this step; arguments as there."""
    start, factor = SLOT.of(records, "start"), SLOT.of(records, "factor")
    later = steps > start
    ramp = (SLOT.of(records, "full") > start) & (ended | (SLOT.of(records, "after_sentence") == 0))
    decay = factor != 1.0
    return (later & (ramp | decay)) | ~SLOT.of(records, "ratio").isnan() | forced_rows(records, steps)


def forced_rows(records: Tensor, steps: Tensor) -> Tensor:
    """Return (R,) bool: the rows in which a strategy leaves nothing but EOS at this step."""
    return SLOT.of(records, "force_at") == steps.to(torch.float32)
