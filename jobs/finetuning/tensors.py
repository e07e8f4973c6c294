"""What a safetensors file says it holds: names, types and shapes, read from its header without the tensors."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from endmark.jobs.errors import ModelError

_LONGEST = 100_000_000  # bytes of a header, as safetensors itself has it


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as the header describes it."""

    dtype: str  # as safetensors writes it: F32, BF16, U8 …
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


def read_header(path: Path) -> dict[str, Stored]:
    """Return the tensors of a file by their names.

    Raises:
        ModelError: it cannot be read, or is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
            return {
                name: Stored(str(item["dtype"]), tuple(map(int, item["shape"])))
                for name, item in header.items()
                if name != "__metadata__"
            }
    except OSError as error:
        raise ModelError(f"cannot read `{path}`: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"`{path}` is damaged, or no safetensors file: {error}", hint="copy or download it again"
        ) from error


def read_headers(paths: Iterable[Path]) -> dict[str, Stored]:
    """Return the tensors of several files, as of a model in shards.

    Raises:
        ModelError: one cannot be read.
    """
    found: dict[str, Stored] = {}
    for path in sorted(paths):
        found.update(read_header(path))
    return found
