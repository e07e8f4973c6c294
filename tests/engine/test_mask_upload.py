"""Masks on their way to a device: those that stand in its memory, and those that stand elsewhere."""

import numpy as np
import pytest
import torch

from endmark.worker.engine.cuda.mask_upload import MaskUpload

pytestmark = pytest.mark.engine
SLOTS, WIDTH = 6, 5


@pytest.mark.parametrize("width", [WIDTH, WIDTH - 1])
def test_masks_come_from_the_memory_of_the_upload_or_from_anywhere(width):
    """A vocabulary may have fewer words of bits than the model has scores; no bit is set beyond them."""
    upload = MaskUpload(SLOTS, WIDTH, torch.device("cpu"))
    rng = np.random.default_rng(1)
    room = upload.memory(8 * width)[: 7 * width].reshape(7, width)
    other = upload.memory(4 * width)[: 2 * width].reshape(2, width)
    own = rng.integers(-9, 9, (3, width), np.int32)
    room[:], other[:] = rng.integers(-9, 9, (7, width)), rng.integers(-9, 9, (2, width))
    first = [(0, own[0]), (3, room[2]), (5, room[0]), (1, other[1]), (4, room[6])]  # the last beyond the slots
    second = [(3, own[1]), (0, room[1])]
    want = torch.zeros(SLOTS, WIDTH, dtype=torch.int32)
    for masks in (first, second, []):
        upload.send(masks)
        for slot, words in masks:
            want[slot, :width] = torch.from_numpy(words)
        assert torch.equal(upload.masks, want)


def test_a_mask_that_is_the_same_object_is_asked_once_where_it_stands_and_read_anew_each_time():
    """Asking 256 arrays for their addresses in each step took 0.3 ms, on the thread that the draw waits for."""
    upload = MaskUpload(SLOTS, WIDTH, torch.device("cpu"))
    rows = list(upload.memory(3 * WIDTH).reshape(3, WIDTH))
    for step in range(3):
        rows[1][:] = step + 1
        upload.send([(step, rows[1])])
        assert upload.masks[step].tolist() == [step + 1] * WIDTH
    assert len(upload._places) == 1
