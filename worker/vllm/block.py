"""Memory that an engine shares with its processors inside vLLM, which may be in other processes on this host.

Where they are on other hosts each has a block of its own, which `hosts` brings together around each step.

Each step's results are copied there by the device itself, behind what has drawn them, so they are whole when
vLLM's own tokens have come. The way back holds what the next draw of a row is to know. Nothing waits and nothing
is locked: a field has one writer, and a result names its row, its step and its sum.
"""

import os
import tempfile
import zlib
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from endmark.jobs.errors import ModelError
from endmark.jobs.landing import STATES
from endmark.jobs.logprobs import MOST
from endmark.worker.engine.layout import RESULT, Layout

RING = 4  # results that are kept of a slot; vLLM has two steps under way at the most
MOST_ASKED = 4096  # tokens whose log probabilities a row may ask for
_MEMORY = Path("/dev/shm")  # noqa: S108  memory by another name, where a system has it

# One result: what a step gives of a row, and which row and step it is of.
ENTRY = Layout(whole=[*RESULT.whole, "epoch", "step", "sum"], real=RESULT.real)
_SUMMED = [ENTRY[name] for name in ENTRY if name != "sum"]


class Block:
    """The memory of one engine, laid out as arrays.

    Attributes:
        path: the file it stands in; `unlink` it once all have it.
        results: (slots, RING, ENTRY.width) int32; a row's step n stands at n % RING.
        told: (slots, RING, 2, 1 + MOST) int32 of `best_scores`, of rows that are told log probabilities.
        asked: (slots, MOST_ASKED) fp32, log probabilities that a row has asked for.
        epochs: (slots,) int32, of the slots' rows; another each time that a row begins there.
        launched: (slots, 2) int32: epoch of the row and its tokens that have been drawn or are about to be.
        resumed: (1,) int32, rows that vLLM has taken up again after it had sent them back.
        calls: (slots, 3) int32: a `steering.Call` for the slot's row, its epoch, and a number that grows.
        masks: (slots, ceil(V / 32)) int32: a bit for each token, 1 where it may come next.
        sentences: (STATES, V) uint8 of `jobs.landing.tabulate`.
    """

    def __init__(self, path: Path, slots: int, vocabulary: int, *, fresh: bool = False) -> None:
        """Map the memory.

        Args:
            path: of the file.
            slots: rows that run at once.
            vocabulary: tokens that have scores.
            fresh: whether it is to be filled with zeros first.

        Raises:
            OSError: there is no room for it.
        """
        self.path = path
        shapes = {
            "results": (slots, RING, ENTRY.width),
            "told": (slots, RING, 2, 1 + min(MOST, vocabulary)),
            "asked": (slots, MOST_ASKED),
            "epochs": (slots,),
            "launched": (slots, 2),
            "resumed": (1,),
            "calls": (slots, 3),
            "masks": (slots, -(-vocabulary // 32)),
            "sentences": (STATES, -(-vocabulary // 4)),
        }
        size = sum(int(np.prod(shape)) for shape in shapes.values())
        if fresh:
            with path.open("r+b") as file:
                os.posix_fallocate(
                    file.fileno(), 0, size * 4
                )  # or writing would end the process where there is no room
        self.memory = np.memmap(path, np.int32, mode="r+", shape=(size,))
        parts: dict[str, NDArray[np.int32]] = {}
        begin = 0
        for name, shape in shapes.items():
            end = begin + int(np.prod(shape))
            parts[name] = np.asarray(self.memory[begin:end]).reshape(shape)
            begin = end
        self.results, self.launched, self.resumed = parts["results"], parts["launched"], parts["resumed"]
        self.epochs, self.told = parts["epochs"], parts["told"]
        self.asked: NDArray[np.float32] = parts["asked"].view(np.float32)
        self.calls, self.masks = parts["calls"], parts["masks"]
        self.sentences: NDArray[np.uint8] = parts["sentences"].view(np.uint8)[:, :vocabulary]

    @classmethod
    def make(cls, slots: int, vocabulary: int) -> "Block":
        """Make the memory, with no result of any row's.

        Raises:
            ModelError: there is no room for it.
        """
        folder = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
        with tempfile.NamedTemporaryFile(prefix="endmark-", dir=folder, delete=False) as file:
            try:
                block = cls(Path(file.name), slots, vocabulary, fresh=True)
            except OSError as error:
                Path(file.name).unlink()
                raise ModelError(
                    f"there is no room in `{folder}` for what the engine shares with vLLM: {error.strerror}",
                    hint="make room there; containers have 64 MB, and more by `docker run --shm-size 1g`",
                ) from error
        block.launched[:] = block.results[..., ENTRY["epoch"]] = -1
        return block

    def unlink(self) -> None:
        """Take the file's name away; whoever has mapped it keeps the memory."""
        self.path.unlink(missing_ok=True)

    def found(
        self, slots: NDArray[np.int64], steps: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the results (R, ENTRY.width) of some slots' rows and steps, and which of them are there (R,)."""
        entries = self.results[slots, steps % RING]
        there = (entries[:, ENTRY["step"]] == steps) & (entries[:, ENTRY["epoch"]] == self.epochs[slots])
        with np.errstate(over="ignore"):
            sums = entries[:, _SUMMED].sum(1, dtype=np.int32)
        return entries, there & (sums == entries[:, ENTRY["sum"]])


def packed(table: NDArray[np.uint8]) -> str:
    """Return a table as text that travels in a configuration."""
    return b64encode(zlib.compress(table.tobytes())).decode()


def unpacked(text: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the table that was packed."""
    return np.frombuffer(zlib.decompress(b64decode(text)), np.uint8).reshape(shape)
