"""Whether the output layer's rows of the end tokens were ever trained, told from a model's files."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

OUTPUT_LAYERS = ("lm_head.weight", "embed_out.weight", "output.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")  # the output layer too, where they are tied
_SAMPLE = 1024  # rows that stand for all
_CHUNK = 16384  # rows read at once
# Shares of the usual distance of a row from the mean. In SmolLM2 and the demo model, rows of tokens that no text
# holds lie within 0.08 of each other, and those of trained end tokens 0.17 and more from any other row.
_MEAN, _TWIN = 0.3, 0.1
_TINY = 0.1  # of the usual length: a row that was left at zero


def untrained_rows(folder: Path, token_ids: Iterable[int]) -> tuple[int, ...]:
    """Return those tokens whose row of the output layer shows that it was never trained.

    Such a row is next to nothing, next to the mean of all rows (added after the training), or next to another row
    (reserved and never used: both were only ever pushed away). No adapter of other layers can make its token
    probable. Of a packed or unknown output layer nothing is said.

    Args:
        folder: with the model's safetensors files.
        token_ids: to look at; ids beyond the layer are left out.
    """
    found = _find(folder)
    if found is None:
        return ()
    path, name = found
    with safe_open(str(path), framework="pt") as file:
        layer = file.get_slice(name)
        size = layer.get_shape()[0]
        ids = [item for item in token_ids if 0 <= item < size]
        sample = torch.cat([layer[item : item + 1] for item in range(0, size, max(1, size // _SAMPLE))])
        if not ids or sample.dim() != 2 or not sample.is_floating_point():
            return ()
        rows, sample = torch.cat([layer[item : item + 1] for item in ids]).float(), sample.float()
        mean = sample.mean(0)
        spread = (sample - mean).norm(dim=1).median()
        untrained = rows.norm(dim=1) < _TINY * sample.norm(dim=1).median()
        untrained |= (rows - mean).norm(dim=1) < _MEAN * spread
        for begin in range(0, size, _CHUNK):
            chunk = layer[begin : begin + _CHUNK].float()
            untrained |= (_distances(rows, chunk, ids, begin) < _TWIN * spread).any(dim=1)
    return tuple(item for item, flag in zip(ids, untrained.tolist(), strict=True) if flag)


def _distances(rows: Tensor, chunk: Tensor, ids: list[int], begin: int) -> Tensor:
    """Return (rows, chunk) distances of rows from those of a chunk that begins at id `begin`, not from itself."""
    distances = torch.cdist(rows, chunk, compute_mode="donot_use_mm_for_euclid_dist")
    for index, item in enumerate(ids):
        if begin <= item < begin + len(chunk):
            distances[index, item - begin] = torch.inf
    return distances


def _find(folder: Path) -> tuple[Path, str] | None:
    """Return the file and the name of the output layer, or of the embedding that stands for it."""
    names: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            names.update(dict.fromkeys(file.keys(), path))
    for endings in (OUTPUT_LAYERS, _EMBEDDINGS):
        for name, path in names.items():
            if name.endswith(endings):
                return path, name
    return None
