"""The one layout of the device's numbers: names to offsets, for CPU tensors, staging and kernels.

A number is 32 bits wide; real ones are kept as the bits of an fp32. Nothing outside this module knows an offset:
tensors are read by `Layout.of`, filled by `Layout.pack`, and a kernel's constant is `SLOT["temperature"]`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from endmark.jobs.sampling import TABLE, Sampling
from endmark.jobs.sampling_kinds import MOST_BIASES, MOST_WORDS
from endmark.jobs.strategies import ScoreNumbers


class Layout:
    """A record of named numbers, side by side."""

    def __init__(self, *, whole: Iterable[str] = (), real: Iterable[str] = ()) -> None:
        """Lay out the numbers, whole ones first.

        Args:
            whole: names of 32-bit integers.
            real: names of fp32 numbers.
        """
        self.whole, self.real = tuple(whole), tuple(real)
        self._offsets = {name: offset for offset, name in enumerate((*self.whole, *self.real))}
        self.width = len(self._offsets)
        if self.width != len(self.whole) + len(self.real):
            raise ValueError("two numbers of a record have the same name")

    def __getitem__(self, name: str) -> int:
        """Return where a number stands."""
        return self._offsets[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names in their order."""
        return iter(self._offsets)

    def of(self, records: Tensor, name: str) -> Tensor:
        """Return one number of records (…, width) of 32 bits as a view (…) of its type."""
        kind = torch.float32 if name in self.real else torch.int32
        return records.view(kind)[..., self._offsets[name]]

    def pack(self, values: Mapping[str, float]) -> NDArray[np.int32]:
        """Return a record (width,) with these values, each in its type, and 0 in the others.

        Raises:
            KeyError: a name is unknown.
        """
        record = np.zeros(self.width, np.int32)
        bits = record.view(np.float32)
        for name, value in values.items():
            if name in self.real:
                bits[self._offsets[name]] = value
            else:
                record[self._offsets[name]] = _signed(int(value))
        return record


class Arrays:
    """A record of named arrays of 32-bit numbers, side by side."""

    def __init__(self, **lengths: int) -> None:
        """Lay out the arrays, each of so many numbers."""
        self._begin: dict[str, int] = {}
        self.width = 0
        for name, length in lengths.items():
            self._begin[name] = self.width
            self.width += length

    def __getitem__(self, name: str) -> int:
        """Return where an array begins."""
        return self._begin[name]

    def fill(self, record: NDArray[np.int32], name: str, values: Sequence[float]) -> None:
        """Write an array's first values into a record (width,): whole numbers as they are, others as fp32."""
        kind = np.int32 if all(isinstance(value, int) for value in values) else np.float32
        record[self[name] : self[name] + len(values)] = np.array(values, kind).view(np.int32)


def _signed(value: int) -> int:
    """Return 32 bits as a signed number."""
    return value - 2**32 if value >= 2**31 else value


# What the strategies do to the scores of one row: `jobs.strategies.ScoreNumbers`, in its order.
SCORES = Layout(real=[item.name for item in fields(ScoreNumbers)])

# The same of its phase, while that is open; beside the others in the same order.
PHASE_SCORES = tuple(f"phase_{name}" for name in SCORES.real)

# How one row's tokens are drawn: the parameters of `jobs.sampling` that are numbers, but for the seed.
SAMPLING = Layout(
    whole=[item.name for item in TABLE if item.kind.device is int],
    real=[item.name for item in TABLE if item.kind.device is float],
)

# What the device keeps for each slot between steps.
SLOT = Layout(
    whole=[
        "last",  # the token that is the next step's input; written by each step
        "landing",  # state of `jobs.landing`; written by each step of rows that look at it
        "key",  # 32 bits of (seed, stream)
        "shaped",  # whether a strategy may change the row's scores
        "adjusted",  # whether a parameter of sampling or a mask changes them before
        "masked",  # whether only some tokens may follow
        "prompt",  # tokens of the row that are not its answer's
        "biases",  # how many of its `LISTS` are in use
        "words",
        "phase",  # a `steering.Standing`; written by the step that ends it
        "opens_with",  # the token that opens an undecided phase
        "restarts",  # whether the score numbers count anew behind the phase
        "origin",  # the attempt's token from which they count; written by the step that ends such a phase
        "eos_inserts",  # whether the insertion takes the place of an EOS in the phase
        "insert_at",  # the attempt's token that is the first of the insertion; written by the step that begins it
        "insert_count",  # its tokens; 0 once it was dropped
        "mark_begin",  # which of them begins the phase's end, where that takes several tokens; -1 where it is one
        "matched",  # tokens of such an end that the text ends with; written by each step of an open phase
        *SAMPLING.whole,
    ],
    real=[*SCORES.real, *PHASE_SCORES, *SAMPLING.real],
)

# What it keeps beside a slot's record for rows that have lists: tokens with what is added to their scores, and
# sequences of tokens that are excluded, each in a place of `LONGEST_WORD`.
MOST_SEQUENCES, LONGEST_WORD = 2 * MOST_WORDS, 16
LISTS = Arrays(
    bias_tokens=MOST_BIASES,
    bias_values=MOST_BIASES,
    word_lengths=MOST_SEQUENCES,
    word_tokens=MOST_SEQUENCES * LONGEST_WORD,
)

# One column of a decode step's input: a row with its `steering.Call`, and a change of any row's page table.
STEP = Layout(
    whole=["slot", "length", "step", "position", "call", "changed_slot", "changed_index", "changed_page"]
)

# One column of what a step gives back.
RESULT = Layout(whole=["token", "rank", "flags"], real=["eos_prob"])


def sampling_values(sampling: Sampling) -> dict[str, float]:
    """Return the parameters by their names in the layouts."""
    return {name: getattr(sampling, name) for name in SAMPLING}


def score_values(numbers: ScoreNumbers) -> dict[str, float]:
    """Return the numbers by their names in the layouts."""
    return {name: float(getattr(numbers, name)) for name in SCORES.real}
