"""The registry of dataset formats: one class a file, found by the file's name or its first bytes.

To add one, write its module beside these and name its class in `_CLASSES`.
"""

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from endmark.jobs.compression import compression_of, decompressed, split_name
from endmark.jobs.datasets.base import Dataset, Source
from endmark.jobs.datasets.checking import checked_rows, plan_of, settle
from endmark.jobs.datasets.csv import CsvDataset
from endmark.jobs.datasets.foreign import foreign_kind
from endmark.jobs.datasets.jsonl import JsonlDataset, is_object
from endmark.jobs.datasets.lines import LinesDataset
from endmark.jobs.datasets.openai import OpenAIDataset
from endmark.jobs.datasets.parquet import ParquetDataset
from endmark.jobs.datasets.stdin import interruptible
from endmark.jobs.errors import DatasetError, Problem, UsageError
from endmark.jobs.remote import file_name, is_url, open_url, shown
from endmark.jobs.spelling import nearest

__all__ = ["FORMATS", "STDIN", "Dataset", "checked_rows", "open_dataset", "plan_of", "settle"]

STDIN = "-"
_CLASSES: tuple[type[Dataset], ...] = (CsvDataset, JsonlDataset, ParquetDataset, OpenAIDataset, LinesDataset)
_BY_CONTENT = (OpenAIDataset, ParquetDataset, CsvDataset, JsonlDataset)  # the surest signs first
FORMATS: Mapping[str, type[Dataset]] = {item.name: item for item in _CLASSES}
_HEAD = 4096  # bytes looked at to tell the format
_LONGEST = 2**24  # bytes of a first line that is looked at whole
_BOM = b"\xef\xbb\xbf"
_NAMED_MARKS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


def open_dataset(path: str, format: str | None = None, *, delimiter: str | None = None) -> Dataset:
    """Open a dataset; its columns are known then.

    What is compressed by gzip, bzip2, xz or Zstandard is told by its first bytes and decompressed.

    Args:
        path: the file, a URL, or `-` for standard input.
        format: one of `FORMATS`; None to tell it by the name, else by the first bytes.
        delimiter: what separates the cells of CSV: a character, or `tab`, `comma`, `semicolon`, `pipe`, `space`.

    Raises:
        UsageError: the file cannot be opened, there is no such format, or the delimiter cannot be one.
        DatasetError: it is empty, or its header cannot be used.
        MissingDependency: it needs an extra.
    """
    if format is not None and format not in FORMATS:
        known = ", ".join(f"`{name}`" for name in FORMATS)
        raise UsageError(f"unknown format `{format}`", hint=nearest(format, FORMATS, f"choose from {known}"))
    mark = None if delimiter is None else _mark(delimiter)
    remote = is_url(path)
    name = "<stdin>" if path == STDIN else shown(path) if remote else path
    file = file_name(path) if remote else path
    stream = open_url(path) if remote else _open(path)
    try:
        stream, head = _peek(_plain(stream, file, name), name)
        found = FORMATS[format] if format else _find_format(file, head)
        if mark is not None and found is not CsvDataset:
            raise UsageError(
                f"`--delimiter` is for CSV, and `{name}` is read as {found.name}", hint="add `--format csv`"
            )
        return found(Source(name, stream, mark))
    except BaseException:
        if path != STDIN:
            stream.close()
        raise


def _mark(text: str) -> str:
    """Return the character that a delimiter stands for."""
    mark = _NAMED_MARKS.get(text.lower(), text)
    if len(mark) != 1 or mark in '"\r\n\0':
        raise UsageError(f"`{text}` cannot be a delimiter", hint="give one character, or `tab`")
    return mark


def _open(path: str) -> io.BufferedReader:
    """Open the file's bytes."""
    if path == STDIN:
        if sys.stdin is None:
            raise UsageError("standard input is closed")
        return interruptible(sys.stdin.buffer)
    if Path(path).is_dir():
        raise UsageError(f"`{path}` is a folder, not a dataset")
    try:
        return Path(path).open("rb")
    except FileNotFoundError as error:
        if Path(path).is_symlink():
            raise UsageError(f"`{path}` is a link to `{Path(path).readlink()}`, which is not there") from error
        raise UsageError(f"there is no file `{path}`", hint=_near_file(Path(path))) from error
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from error


def _near_file(path: Path) -> str:
    """Return a hint for a file that is not there."""
    try:
        beside = [item.name for item in path.parent.iterdir()]
    except OSError:
        return f"the folder `{path.parent}` cannot be read either"
    return nearest(path.name, beside, "give a file, or `-` for standard input")


def _plain(stream: io.BufferedReader, file: str, name: str) -> io.BufferedReader:
    """Return the stream, or a reader of what it holds if it is compressed."""
    head = _begin(stream, name)
    suffix = compression_of(head)
    said = split_name(file)[1]
    if head and said and not suffix:
        reason = f"cannot be read: its name ends in `{said}`, and it is not compressed so"
        raise DatasetError([Problem(name, 0, reason)], 1, hint="name it as what it is")
    return decompressed(cast(BinaryIO, stream), suffix) if suffix else stream


def _begin(stream: io.BufferedReader, name: str) -> bytes:
    """Return the first bytes, which stay unread.

    Raises:
        DatasetError: they cannot be read.
    """
    try:
        return stream.peek(_HEAD)[:_HEAD]
    except OSError as error:
        raise DatasetError([Problem(name, 0, f"cannot be read: {error}")], 1) from error


def _peek(stream: io.BufferedReader, name: str) -> tuple[io.BufferedReader, bytes]:
    """Return a stream of the same bytes, and the first of them: the first line whole if it may be JSON.

    Raises:
        DatasetError: there are none, or they are those of another kind of file.
    """
    head = _begin(stream, name)
    if not head:
        raise DatasetError([Problem(name, 0, "is empty")], 1, hint="a dataset has a header or keys, and rows")
    kind = foreign_kind(head)
    if kind is not None:
        raise DatasetError([Problem(name, 0, kind[0])], 1, hint=kind[1])
    begin = head.removeprefix(_BOM).lstrip()
    if not begin.startswith(b"{") or b"\n" in begin:
        return stream, head
    try:
        head = stream.read(len(head)) + stream.readline(_LONGEST)
    except OSError as error:
        raise DatasetError([Problem(name, 1, f"cannot be read: {error}")], 1) from error
    return io.BufferedReader(_Rewound(head, stream), 2**16), head


class _Rewound(io.RawIOBase):
    """A stream of which the first bytes have been read, from its beginning."""

    def __init__(self, head: bytes, rest: io.BufferedReader) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - any writable buffer
        """Read what there is; 0 at the end."""
        if not self._head:
            return self._rest.readinto1(buffer)
        count = min(len(buffer), len(self._head))
        buffer[:count] = self._head[:count]
        self._head = self._head[count:]
        return count

    def close(self) -> None:
        """Close the stream."""
        if not self.closed:
            self._rest.close()
        super().close()


def _find_format(file: str, head: bytes) -> type[Dataset]:
    """Return the format that the file's name says, or else its first bytes."""
    name = split_name(file)[0].lower()
    begin = head.removeprefix(_BOM).lstrip()
    if OpenAIDataset.begins(begin):
        return OpenAIDataset
    if name.endswith(LinesDataset.suffixes) and is_object(begin):
        return JsonlDataset
    for item in _CLASSES:
        if item.suffixes and name.endswith(item.suffixes):
            return item
    return next((item for item in _BY_CONTENT if item.begins(begin)), CsvDataset)
