"""From the plan of a row to what the device keeps for it: the same record on every path."""

import numpy as np
from numpy.typing import NDArray

from endmark.worker.engine.layout import SLOT, sampling_values, score_values
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.sampler import stream_key


def slot_record(row: PrefillRow) -> NDArray[np.int32]:
    """Return the record (SLOT.width,) of a row that begins; its last token is written by the step itself."""
    return SLOT.pack(
        {
            "landing": row.sentence_state,
            "key": stream_key(row.sampling.seed, row.stream),
            "shaped": not row.numbers.is_neutral,
            "adjusted": row.sampling.adjusts,
            "prompt": row.prompt,
            **sampling_values(row.sampling),
            **score_values(row.numbers),
        }
    )
