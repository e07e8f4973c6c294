"""A whole text's logits by the kernels, computed as a prompt is: what comparisons of weights and caches read."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers
from endmark.worker.engine.cuda.prefill import PassInputs, Piece
from endmark.worker.engine.cuda.runner import CudaRunner
from endmark.worker.engine.plan import PrefillRow


@torch.inference_mode()
def score_text(runner: CudaRunner, token_ids: Sequence[int], device: torch.device) -> Tensor:
    """Return the logits behind each token of a text.

    Args:
        runner: no row of which may be running; what its pages held is lost.
        token_ids: T tokens, for which it has pages.
        device: of the runner.

    Returns:
        (T, V) in the model's type.
    """
    pages = range(-(-len(token_ids) // runner.page_size))
    row = PrefillRow(0, token_ids, 0, pages, 1, 0, Sampling(), ScoreNumbers(), 0)
    inputs = PassInputs.of([Piece(row, 0, len(token_ids))], None, device)
    tables = torch.tensor(
        [pages], dtype=torch.int32, device=device
    )  # instead of the slots', which stay as they are
    batch = replace(runner.batch(inputs.slots, inputs.positions, inputs.tiles), tables=tables)
    return runner.forward(inputs.tokens, inputs.positions64, batch, 0)
