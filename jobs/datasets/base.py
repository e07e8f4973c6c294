"""What a dataset is: a source of rows, read once from first to last, each with the line where it begins."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from endmark.jobs.datasets.notes import Notes
from endmark.jobs.errors import DatasetError, Problem

NOT_UTF8 = "is not UTF-8"
AS_UTF8 = "save the file as UTF-8 (in Excel: `CSV UTF-8`), or convert it: `iconv -f WINDOWS-1252 -t UTF-8 FILE`"

_CHUNK = 2**15  # characters of lines read at once: a slow pipe's rows are not to wait for many others
Line = tuple[int, Sequence[Any]] | Problem  # a row and where it begins, or why there is none


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that follow one another in a file, all as wide as its header and without a problem that it can tell."""

    begins: Sequence[int]  # the lines in which they begin
    ends: Sequence[int]  # and end
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of a dataset and the name by which messages call them."""

    name: str
    stream: io.BufferedReader
    delimiter: str | None = None  # between the cells of CSV; None to tell it by the header


class Dataset(ABC):
    """One open dataset.

    `columns` may grow while a format without a header is read; a row's cells stand in the order of the columns
    known when it was read, and columns that came later are null in it.
    """

    name: ClassVar[str]  # of the format
    suffixes: ClassVar[tuple[str, ...]]  # of file names
    grows: ClassVar[bool] = False  # whether rows may bring new columns

    def __init__(self, source: Source) -> None:
        self.source = source.name
        self.columns: list[str] = []
        self.notes = Notes()  # on rows that are taken

    @classmethod
    @abstractmethod
    def begins(cls, head: bytes) -> bool:
        """Whether a file of this format may begin so; BOM and white space are left out."""

    @property
    @abstractmethod
    def raw(self) -> str:
        """The row last read, as it stands in the file; bytes that are not UTF-8 are lone surrogates."""

    @abstractmethod
    def __iter__(self) -> Iterator[Line]:
        """Return the rows and the problems, in order; to be called once."""

    def blocks(self) -> Iterator[Line | Block]:
        """Return the same as `__iter__`, in its place, and rows by blocks where the format reads them so."""
        return iter(self)

    def lines_of(self, block: Block) -> Iterator[tuple[int, Sequence[Any]]]:
        """Return the rows of the block that was read last one by one; `raw` is the one returned last."""
        return zip(block.begins, block.rows, strict=True)

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> "Dataset":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def unusable(self, line: int, reason: str, hint: str | None = None) -> DatasetError:
        """Return the error of a dataset that cannot be read at all."""
        return DatasetError([Problem(self.source, line, reason)], 1, hint=hint)


class AheadDataset(Dataset):
    """A dataset whose first rows are read when it is opened: columns are to be known before anything is stored."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._raw: Any = ""  # the row last read
        self._rows: Iterator[Line] = iter(())  # reads a row each, and notes it as `_raw`
        self._ahead: list[tuple[Any, Line]] = []  # rows that were read, each as it stands in the file

    def __iter__(self) -> Iterator[Line]:
        """Return the rows and the problems."""
        for raw, line in self._ahead:
            self._raw = raw
            yield line
        self._ahead.clear()
        yield from self._rows


class TextLines:
    """The lines of a text, line ends kept, numbered from 1; what is wrong with them is told by `fault`."""

    def __init__(self, source: Source) -> None:
        # A byte that is no UTF-8 becomes a lone surrogate, so that it spoils its own line and no other.
        self._text = io.TextIOWrapper(source.stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._source = source.name
        self.taken: list[str] = []  # lines since `begin_row`
        self.number = 0  # of the line last read
        self.faults: list[tuple[int, str]] = []  # lines that are no text, with the reasons

    def begin_row(self) -> int:
        """Forget the lines taken; return the number of the next one."""
        self.taken.clear()
        self.faults.clear()
        return self.number + 1

    def fault(self) -> tuple[int, str] | None:
        """Return the first line taken that is not UTF-8 text, with the reason, or None."""
        return self.faults[0] if self.faults else None

    def __iter__(self) -> Iterator[str]:
        """Return the lines.

        Raises:
            DatasetError: the file cannot be read further.
        """
        while True:
            try:
                line = next(self._text, "")
            except OSError as error:
                raise self._unreadable(error) from error
            if not line:
                return
            self.number += 1
            self.taken.append(line)
            yield self._looked(line, self.number)

    def chunks(self) -> Iterator[Sequence[str]]:
        """Return the lines in pieces; those that were taken are kept until `forget`.

        Raises:
            DatasetError: the file cannot be read further.
        """
        while True:
            size, first = 0, len(self.taken)
            try:
                for line in self._text:
                    self.taken.append(line)
                    self.number += 1
                    size += len(line)
                    if size >= _CHUNK:
                        break
            except OSError as error:
                raise self._unreadable(error) from error
            chunk = self.taken[first:]
            if not chunk:
                return
            if not _is_plain("".join(chunk)):
                begin = self.number - len(chunk) + 1
                chunk = [self._looked(line, number) for number, line in enumerate(chunk, begin)]
            yield chunk

    def forget(self, number: int) -> None:
        """Forget the lines up to one of a number, and what is wrong with them."""
        del self.taken[: len(self.taken) - (self.number - number)]
        self.faults = [fault for fault in self.faults if fault[0] > number]

    def between(self, begin: int, end: int) -> str:
        """Return lines that were taken, from one number to another, as they stand in the file."""
        first = self.number - len(self.taken) + 1
        return "".join(self.taken[begin - first : end + 1 - first])

    def _looked(self, line: str, number: int) -> str:
        """Return a line without NUL bytes, which are a fault, as bytes that are no UTF-8 are."""
        if "\0" in line:
            self.faults.append((number, "contains a NUL byte"))
            return line.replace("\0", "")
        if line.isascii():
            return line
        try:
            line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) - 0xDC00
            column = len(line[: error.start].encode(errors="surrogateescape")) + 1
            self.faults.append((number, f"{NOT_UTF8}: byte {byte:#04x} at column {column:,}"))
        return line

    def _unreadable(self, error: OSError) -> DatasetError:
        """Return the error of a file that cannot be read further."""
        return DatasetError([Problem(self._source, self.number + 1, f"cannot be read: {error}")], 1)

    def close(self) -> None:
        """Close the file."""
        self._text.close()


def _is_plain(text: str) -> bool:
    """Whether a text has no NUL byte and no byte that is no UTF-8."""
    if "\0" in text:
        return False
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
