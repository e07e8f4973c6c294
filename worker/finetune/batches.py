"""Batches as the trainer sees them, padded by length and never by token id, and the check that EOS is in them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from endmark.worker.finetune.labels import IGNORED


class Collator:
    """Puts examples into one batch of tensors, (B, T) each.

    Examples with `lengths` are packed ones: their positions begin anew with each, which is how transformers keeps
    them from attending to each other; padding counts as one more. Others get an attention mask.
    """

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id  # stands where nothing attends and no label is; any token would do

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return `input_ids`, `labels`, and `attention_mask` or `position_ids`."""
        longest = max(len(item["input_ids"]) for item in examples)

        def padded(rows: Iterable[Sequence[int]], filler: int) -> Tensor:
            return torch.tensor([[*row, *([filler] * (longest - len(row)))] for row in rows])

        batch = {
            "input_ids": padded((item["input_ids"] for item in examples), self._pad_id),
            "labels": padded((item["labels"] for item in examples), IGNORED),
        }
        if "lengths" in examples[0]:
            lengths = [[*item["lengths"], longest - sum(item["lengths"])] for item in examples]
            batch["position_ids"] = padded(([at for n in row for at in range(n)] for row in lengths), 0)
        else:
            batch["attention_mask"] = padded(([1] * len(item["input_ids"]) for item in examples), 0)
        return batch


def count_eos(batches: Iterable[Mapping[str, Tensor]], eos_ids: Collection[int]) -> tuple[int, int]:
    """Return how many examples there are in the batches, and how many have EOS in their labels."""
    total = with_eos = 0
    ends = torch.tensor(sorted(eos_ids))
    for batch in batches:
        labels = batch["labels"].cpu()
        positions = batch.get("position_ids")
        for row in range(len(labels)):
            learned = labels[row]
            starts = [0] if positions is None else (positions[row].cpu() == 0).nonzero().flatten().tolist()
            for example in torch.tensor_split(learned, starts[1:]):
                if bool((example != IGNORED).any()):
                    total += 1
                    with_eos += bool(torch.isin(example, ends).any())
    return total, with_eos
