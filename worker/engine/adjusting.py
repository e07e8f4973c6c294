"""What the parameters of sampling do to a row's scores before its strategies: penalties and what is excluded.

Each is a function of the row's tokens alone. Nothing is counted from step to step, so preemption, going on from an
earlier answer and tokens taken back cannot make one wrong, and a row may switch one on in the middle of its life.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from endmark.worker.engine.layout import SAMPLING, SLOT

ROOMS = 128  # rows whose scores a card changes at once
ROOM_BYTES = 8  # that each of them takes for a token of the vocabulary: an fp32 score and a count
DRY_ALLOWED = 2  # tokens that an answer may repeat in a row at no cost
DRY_BASE = 1.75  # by which each further one costs more
DRY_LONGEST = 32  # tokens of a run that are compared: beyond, any multiplier excludes the token


@dataclass(frozen=True, slots=True)
class Written:
    """What one row holds before its next token."""

    tokens: Tensor  # (L,) int64, of the prompt and of the answer so far, that of earlier attempts included
    prompt: int  # how many of them are the prompt's

    @property
    def answer(self) -> Tensor:
        """The answer's tokens."""
        return self.tokens[self.prompt :]


def adjust(scores: Tensor, record: Tensor, written: Written, eos_ids: Tensor) -> None:
    """Change one row's scores in place, in this order.

    Args:
        scores: (V,) fp32.
        record: (SLOT.width,) int32.
        written: the row so far.
        eos_ids: (E,) int64.
    """
    value = {name: SLOT.of(record, name).item() for name in SAMPLING}
    if value["repetition_penalty"] != 1.0:
        repeat(scores, written.tokens, value["repetition_penalty"])
    if value["frequency_penalty"] or value["presence_penalty"]:
        count(scores, written.answer, value["frequency_penalty"], value["presence_penalty"])
    if value["dry_multiplier"] and len(written.answer) > DRY_ALLOWED:
        dry(scores, written.answer, value["dry_multiplier"])
    if len(written.answer) < value["min_new_tokens"]:
        scores[eos_ids] = -torch.inf


def repeat(scores: Tensor, tokens: Tensor, penalty: float) -> None:
    """Make tokens that the prompt or the answer holds less likely, as in CTRL (arXiv:1909.05858)."""
    seen = tokens.unique()
    found = scores[seen]
    scores[seen] = torch.where(found < 0, found * penalty, found / penalty)


def count(scores: Tensor, answer: Tensor, frequency: float, presence: float) -> None:
    """Make tokens of the answer less likely, each time and once, as OpenAI's API has it."""
    counts = answer.bincount(minlength=len(scores)).to(scores.dtype)
    scores -= frequency * counts
    scores -= presence * (counts > 0)


def dry(scores: Tensor, answer: Tensor, multiplier: float) -> None:
    """Make tokens less likely that would go on repeating a run of the answer, the longer the run the more.

    Where the last n tokens have stood before and were followed by t, t loses ``multiplier * 1.75 ** (n - 2)``,
    from n = 2 on, for the longest such n (DRY, text-generation-webui #5677). Runs of the prompt do not count: an
    answer that quotes it would be kept from ending as the prompt's turns end.
    """
    followers = torch.arange(1, len(answer), device=answer.device)  # where an earlier run's next token stands
    alive = torch.ones_like(followers, dtype=torch.bool)
    loss = torch.zeros(len(followers), dtype=scores.dtype, device=scores.device)
    for run in range(1, min(len(answer), DRY_LONGEST + 1)):
        alive = alive & (followers >= run) & (answer[(followers - run).clamp(min=0)] == answer[-run])
        if not bool(alive.any()):
            break
        grown = loss * DRY_BASE if run > DRY_ALLOWED else torch.full_like(loss, multiplier)
        loss = torch.where(alive, grown, loss) if run >= DRY_ALLOWED else loss
    most = torch.zeros_like(scores).scatter_reduce(0, answer[1:], loss, "amax")
    scores -= most
