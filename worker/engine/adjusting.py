"""What the parameters of sampling do to a row's scores before its strategies: penalties and what is excluded.

Each is a function of the row's tokens alone. Nothing is counted from step to step, so preemption, going on from an
earlier answer and tokens taken back cannot make one wrong, and a row may switch one on in the middle of its life.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from endmark.worker.engine.plan import PrefillRow

ROOMS = 128  # rows whose scores a card changes at once
ROOM_BYTES = 8  # that each of them takes for a token of the vocabulary: an fp32 score and a count
DRY_ALLOWED = 2  # tokens that an answer may repeat in a row at no cost
DRY_BASE = 1.75  # by which each further one costs more
DRY_LONGEST = 32  # tokens of a run that are compared: beyond, any multiplier excludes the token


def adjust(scores: Tensor, row: PrefillRow, tokens: Tensor, eos_ids: Tensor) -> None:
    """Change one row's scores in place, in transformers' order.

    Args:
        scores: (V,) fp32.
        row: as it was planned; its tokens may be more by now.
        tokens: (L,) int64, of the prompt and of the answer so far, that of earlier attempts included.
        eos_ids: (E,) int64.
    """
    sampling, answer = row.sampling, tokens[row.prompt :]
    for token, bias in sampling.logit_bias:
        scores[token] += bias
    if sampling.repetition_penalty != 1.0:
        repeat(scores, tokens, sampling.repetition_penalty)
    if sampling.frequency_penalty or sampling.presence_penalty:
        count(scores, answer, sampling.frequency_penalty, sampling.presence_penalty)
    if sampling.dry_multiplier and len(answer) > DRY_ALLOWED:
        dry(scores, answer, sampling.dry_multiplier)
    exclude(scores, tokens, row.bad_words)
    if len(answer) < sampling.min_new_tokens:
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


def exclude(scores: Tensor, tokens: Tensor, words: Sequence[Sequence[int]]) -> None:
    """Exclude each token that would complete one of the sequences."""
    for *begun, last in words:
        if tokens[len(tokens) - len(begun) :].tolist() == begun:
            scores[last] = -torch.inf
