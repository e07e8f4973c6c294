"""What the parameters of sampling do to a row's scores before its strategies: penalties and what is excluded.

Each is a function of the row's tokens alone. Nothing is counted from step to step, so preemption, going on from an
earlier answer and tokens taken back cannot make one wrong, and a row may switch one on in the middle of its life.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from endmark.worker.engine.layout import LONGEST_WORD
from endmark.worker.engine.plan import PrefillRow

ROOMS = 128  # rows whose scores a card changes at once
ROOM_BYTES = 8  # that each of them takes for a token of the vocabulary: an fp32 score and a count
DRY_ALLOWED = 2  # tokens that an answer may repeat in a row at no cost
DRY_BASE = 1.75  # by which each further one costs more
DRY_LONGEST = 32  # tokens of a run that are compared: beyond, any multiplier excludes the token


@dataclass(frozen=True, slots=True)
class Written:
    """What R rows hold before their next tokens.

    Attributes:
        tokens: (R, L) int64, of the prompt and of the answer so far, that of earlier attempts included. Behind a
            row's end its last token is repeated, so that what is told of a token is told of it in every place.
        lengths: (R, 1) int64, how many of them are the row's.
        prompts: (R, 1) int64, how many of those are the prompt's.
    """

    tokens: Tensor
    lengths: Tensor
    prompts: Tensor

    @property
    def answered(self) -> Tensor:
        """(R, L) bool: the answers' own places."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (places >= self.prompts) & (places < self.lengths)


def adjust(scores: Tensor, rows: Sequence[PrefillRow], written: Written, eos_ids: Tensor) -> None:
    """Change scores in place, in transformers' order.

    Args:
        scores: (R, V) fp32.
        rows: as they were planned; their tokens may be more by now.
        written: the same rows.
        eos_ids: (E,) int64.
    """
    sampling = [row.sampling for row in rows]
    for index, row in enumerate(rows):
        if row.sampling.logit_bias:
            tokens, biases = zip(*row.sampling.logit_bias, strict=True)
            scores[index, list(tokens)] += torch.tensor(biases, dtype=scores.dtype, device=scores.device)
    column = {
        name: torch.tensor([[float(getattr(item, name))] for item in sampling], device=scores.device)
        for name in (
            "repetition_penalty",
            "frequency_penalty",
            "presence_penalty",
            "dry_multiplier",
            "min_new_tokens",
        )
    }
    penalise(
        scores, written, column["repetition_penalty"], column["frequency_penalty"], column["presence_penalty"]
    )
    if bool(column["dry_multiplier"].any()):
        dry(scores, written, column["dry_multiplier"])
    for index, row in enumerate(rows):
        if row.sampling.no_repeat_ngram_size:
            own = written.tokens[index, : int(written.lengths[index])]
            exclude_repeats(scores[index], own, row.sampling.no_repeat_ngram_size)
        if row.bad_words:
            exclude(scores[index], written.tokens[index, : int(written.lengths[index])], row.bad_words)
    early = (written.lengths - written.prompts < column["min_new_tokens"]).squeeze(-1)
    if bool(early.any()):
        scores[early.nonzero(), eos_ids] = -torch.inf


def penalise(scores: Tensor, written: Written, repetition: Tensor, frequency: Tensor, presence: Tensor) -> None:
    """Make tokens less likely that a row holds; the penalties are (R, 1) fp32.

    Repetition counts the prompt too and divides what is above 0, as in CTRL (arXiv:1909.05858); frequency and
    presence count the answer, each time and once, as OpenAI's API has it.
    """
    counts = torch.zeros_like(scores).scatter_add_(1, written.tokens, written.answered.to(scores.dtype))
    times, score = counts.gather(1, written.tokens), scores.gather(1, written.tokens)
    score = torch.where(score < 0, score * repetition, score / repetition)
    score = score - frequency * times
    score = score - torch.where(times > 0, presence, 0.0)
    scores.scatter_(1, written.tokens, score)


def dry(scores: Tensor, written: Written, multiplier: Tensor) -> None:
    """Make tokens less likely that would go on repeating a run of the answer, the longer the run the more.

    Where the last n tokens have stood before and were followed by t, t loses ``multiplier * 1.75 ** (n - 2)``,
    from n = 2 on, for the longest such n (DRY, text-generation-webui #5677). Runs of the prompt do not count: an
    answer that quotes it would be kept from ending as the prompt's turns end.

    Args:
        scores: (R, V) fp32, changed in place.
        written: the rows so far.
        multiplier: (R, 1) fp32, 0 for rows without.
    """
    tokens, (count, length) = written.tokens, written.tokens.shape
    alive = written.answered.clone()  # places whose token follows a run that the row ends with, of `run` tokens
    loss = torch.zeros(count, length, dtype=scores.dtype, device=scores.device)
    for run in range(1, min(length, DRY_LONGEST + 1)):
        last = tokens.gather(1, (written.lengths - run).clamp(min=0))
        alive[:, run:] &= written.answered[:, :-run] & (tokens[:, :-run] == last)
        alive[:, :run] = False
        if not bool(alive.any()):
            break
        if run >= DRY_ALLOWED:
            loss = torch.where(alive, loss * DRY_BASE if run > DRY_ALLOWED else multiplier, loss)
    most = torch.zeros_like(scores).scatter_reduce_(1, tokens, loss, "amax").gather(1, tokens)
    scores.scatter_(1, tokens, scores.gather(1, tokens) - most)


def exclude(scores: Tensor, tokens: Tensor, words: Sequence[Sequence[int]]) -> None:
    """Exclude, in one row's scores (V,), each token that would complete one of the sequences."""
    end = tokens[-LONGEST_WORD:].tolist()
    for *begun, last in words:
        if end[len(end) - len(begun) :] == begun:
            scores[last] = -torch.inf


def exclude_repeats(scores: Tensor, tokens: Tensor, size: int) -> None:
    """Exclude, in one row's scores (V,), each token that would complete a run of `size` tokens that it holds."""
    if len(tokens) >= size:
        runs = tokens.unfold(0, size, 1)
        scores[runs[(runs[:, :-1] == tokens[len(tokens) - size + 1 :]).all(-1), -1]] = -torch.inf
