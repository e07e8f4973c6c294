"""The registry of dataset formats: one class a file, found by the file's name or its first bytes.

To add one, write its module beside these and name its class in `_CLASSES`.
"""

import gzip
import io
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from endmark.jobs.datasets.base import Dataset, Source
from endmark.jobs.datasets.checking import checked_rows, settle
from endmark.jobs.datasets.csv import CsvDataset
from endmark.jobs.datasets.jsonl import JsonlDataset
from endmark.jobs.datasets.openai import OpenAIDataset
from endmark.jobs.datasets.parquet import ParquetDataset
from endmark.jobs.datasets.stdin import interruptible
from endmark.jobs.errors import DatasetError, Problem, UsageError
from endmark.jobs.spelling import nearest

__all__ = ["FORMATS", "STDIN", "Dataset", "checked_rows", "open_dataset", "settle"]

STDIN = "-"
_CLASSES: tuple[type[Dataset], ...] = (CsvDataset, JsonlDataset, ParquetDataset, OpenAIDataset)
_BY_CONTENT = (OpenAIDataset, ParquetDataset, CsvDataset, JsonlDataset)  # the surest signs first
FORMATS: Mapping[str, type[Dataset]] = {item.name: item for item in _CLASSES}
_HEAD = 4096  # bytes looked at to tell the format
_FOREIGN = (  # how files begin that are no dataset, what they are, and what to do
    (rb"\xff\xfe|\xfe\xff|\0|.\0", "is UTF-16 text", "save it as UTF-8"),
    (
        rb"\x1f\x8b",
        "is compressed by gzip",
        "let its name end in `.gz`, or pipe it in: `zcat FILE | endmark submit -`",
    ),
    (rb"PK\x03\x04", "is a spreadsheet or a zip archive", "save it as CSV in UTF-8"),
)


def open_dataset(path: str, format: str | None = None) -> Dataset:
    """Open a dataset; its columns are known then. `-` is standard input; a name in `.gz` is decompressed.

    Args:
        path: the file, or `-`.
        format: one of `FORMATS`; None to tell it by the name, else by the first bytes.

    Raises:
        UsageError: the file cannot be opened, or there is no such format.
        DatasetError: it is empty, or its header cannot be used.
    """
    if format is not None and format not in FORMATS:
        known = ", ".join(f"`{name}`" for name in FORMATS)
        raise UsageError(f"unknown format `{format}`", hint=nearest(format, FORMATS, f"choose from {known}"))
    name = "<stdin>" if path == STDIN else path
    stream = _open(path)
    try:
        head = _peek(stream, name)
        found = FORMATS[format] if format else _find_format(path, head)
        return found(Source(name, stream))
    except BaseException:
        if path != STDIN:
            stream.close()
        raise


def _open(path: str) -> io.BufferedReader:
    """Open the file's bytes."""
    if path == STDIN:
        if sys.stdin is None:
            raise UsageError("standard input is closed")
        return interruptible(sys.stdin.buffer)
    if Path(path).is_dir():
        raise UsageError(f"`{path}` is a folder, not a dataset")
    try:
        stream = Path(path).open("rb")  # noqa: SIM115 - the dataset closes it
    except FileNotFoundError as error:
        raise UsageError(f"there is no file `{path}`", hint=_near_file(Path(path))) from error
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from error
    if path.endswith(".gz"):
        stream.close()
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(path)), 2**16)
    return stream


def _near_file(path: Path) -> str:
    """Return a hint for a file that is not there."""
    try:
        beside = [item.name for item in path.parent.iterdir()]
    except OSError:
        return f"the folder `{path.parent}` cannot be read either"
    return nearest(path.name, beside, "give a file, or `-` for standard input")


def _peek(stream: io.BufferedReader, name: str) -> bytes:
    """Return the first bytes, which stay unread.

    Raises:
        DatasetError: there are none, or they are those of another kind of file.
    """
    try:
        head = stream.peek(_HEAD)[:_HEAD]
    except (OSError, EOFError) as error:
        raise DatasetError([Problem(name, 0, f"cannot be read: {error}")], 1) from error
    if not head:
        raise DatasetError([Problem(name, 0, "is empty")], 1, hint="a dataset has a header or keys, and rows")
    for sign, what, hint in _FOREIGN:
        if re.match(sign, head, re.DOTALL):
            raise DatasetError([Problem(name, 0, what)], 1, hint=hint)
    return head


def _find_format(path: str, head: bytes) -> type[Dataset]:
    """Return the format that the file's name says, or else its first bytes."""
    name = path.lower().removesuffix(".gz")
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if OpenAIDataset.begins(begin):
        return OpenAIDataset
    for item in _CLASSES:
        if item.suffixes and name.endswith(item.suffixes):
            return item
    return next((item for item in _BY_CONTENT if item.begins(begin)), CsvDataset)
