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

Line = tuple[int, Sequence[Any]] | Problem  # a row and where it begins, or why there is none


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
        self._faults: list[tuple[int, str]] = []

    def begin_row(self) -> int:
        """Forget the lines taken; return the number of the next one."""
        self.taken.clear()
        self._faults.clear()
        return self.number + 1

    def fault(self) -> tuple[int, str] | None:
        """Return the first line taken that is not UTF-8 text, with the reason, or None."""
        return self._faults[0] if self._faults else None

    def __iter__(self) -> Iterator[str]:
        """Return the lines.

        Raises:
            DatasetError: the file cannot be read further.
        """
        while True:
            try:
                line = next(self._text, "")
            except OSError as error:
                raise DatasetError(
                    [Problem(self._source, self.number + 1, f"cannot be read: {error}")], 1
                ) from error
            if not line:
                return
            self.number += 1
            self.taken.append(line)
            if "\0" in line:
                self._faults.append((self.number, "contains a NUL byte"))
                line = line.replace("\0", "")
            elif not line.isascii():
                self._look(line)
            yield line

    def _look(self, line: str) -> None:
        """Note bytes that are no UTF-8."""
        try:
            line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) - 0xDC00
            column = len(line[: error.start].encode(errors="surrogateescape")) + 1
            self._faults.append((self.number, f"{NOT_UTF8}: byte {byte:#04x} at column {column:,}"))

    def close(self) -> None:
        """Close the file."""
        self._text.close()
