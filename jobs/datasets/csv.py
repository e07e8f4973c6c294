"""CSV with a header, its cells separated by commas, or by the semicolons, tabs or bars that its header shows."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from endmark.jobs.datasets.base import AS_UTF8, NOT_UTF8, Block, Dataset, Line, Source, TextLines
from endmark.jobs.errors import Problem

_AT_ONCE = 2000  # rows of a block at most
_FIELD_LIMIT = 2**26  # characters; a quote that nobody closes must not take in a file of gigabytes
_SEPARATOR_LINE = re.compile(r'"?sep=(?P<mark>[^"\r\n])"?[,;\t]*\s*', re.IGNORECASE)  # Excel's, above the header
_QUOTED = re.compile(r'"[^"]*(?:"|$)')
_MARKS: Mapping[str, str] = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}  # the earlier wins a tie
_NO_MARK = "\x1f"  # ASCII's unit separator, which stands in no text


class CsvDataset(Dataset):
    """A CSV file as RFC 4180 has it; blank lines are passed over, and columns without a name get one."""

    name = "csv"
    suffixes = (".csv", ".tsv")

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._lines = TextLines(source)
        header = self._first_line()
        told = _SEPARATOR_LINE.fullmatch(header)
        if told:
            header = self._first_line()
        line = self._lines.number
        self._before = line - 1  # lines that the reader does not see
        csv.field_size_limit(_FIELD_LIMIT)
        mark = source.delimiter or (told["mark"] if told else _delimiter(header))
        self._mark = _MARKS.get(mark, f"`{mark}`")  # in words
        self._rows = csv.reader(self._with_first(header), delimiter=mark, strict=True)
        try:
            self.columns = next((row for row in self._rows if row), [])
        except csv.Error as error:
            raise self.unusable(line, f"header: {error}") from error
        self._row = (line, self._end)  # the lines of the row last read
        self._check_header(line)

    @classmethod
    def begins(cls, head: bytes) -> bool:
        """Whether it may be CSV: any text that is not JSON."""
        return not head.startswith((b"{", b"["))

    def _first_line(self) -> str:
        """Return the next line that is not blank, or "" at the end."""
        self._lines.begin_row()
        return next((text for text in self._lines if text.strip()), "")

    def _with_first(self, header: str) -> Iterator[str]:
        """Return the header line, which has been read, and the others."""
        yield header
        for chunk in self._lines.chunks():
            yield from chunk

    @property
    def _end(self) -> int:
        """The last line that the reader has taken."""
        return self._before + self._rows.line_num

    def _check_header(self, line: int) -> None:
        """Refuse a header whose names cannot name columns."""
        fault = next(iter(self._lines.faults), None)
        if fault and fault[0] <= self._end:
            raise self.unusable(fault[0], f"header {fault[1]}", AS_UTF8 if NOT_UTF8 in fault[1] else None)
        if not self.columns:
            raise self.unusable(0, "is empty", hint="a CSV begins with a line that names its columns")
        if not any(name.strip() for name in self.columns):
            raise self.unusable(line, "header: no column has a name")
        self._name_columns()
        doubled = [name for name, count in Counter(self.columns).items() if count > 1]
        if doubled:
            listed = ", ".join(f"`{name}`" for name in doubled)
            raise self.unusable(
                line, f"header: {listed} stands there more than once", "give each column a name of its own"
            )

    def _name_columns(self) -> None:
        """Give names to the columns that have none, such as the index that pandas writes."""
        for position, name in enumerate(self.columns, start=1):
            if not name.strip():
                fresh = f"column_{position}"
                while fresh in self.columns:
                    fresh += "_"
                self.columns[position - 1] = fresh

    @property
    def raw(self) -> str:
        """The row last read."""
        return self._lines.between(*self._row)

    def __iter__(self) -> Iterator[Line]:
        """Return the rows and the problems."""
        for item in self.blocks():
            if isinstance(item, Block):
                yield from self.lines_of(item)
            else:
                yield item

    def lines_of(self, block: Block) -> Iterator[tuple[int, Sequence[Any]]]:
        """Return the rows of the block that was read last one by one."""
        for begin, end, cells in zip(block.begins, block.ends, block.rows, strict=True):
            self._row = (begin, end)
            yield begin, cells

    def blocks(self) -> Iterator[Line | Block]:
        """Return the rows in blocks; those of a block with a row that cannot be used one by one."""
        lines, width = self._lines, {len(self.columns)}
        while True:
            end = self._end
            lines.forget(end)
            block, error = self._read(end)
            if block.rows:
                plain = not lines.faults or lines.faults[0][0] > block.ends[-1]
                if plain and set(map(len, block.rows)) == width:
                    yield block
                else:
                    yield from self._one_by_one(block)
            if error is not None:
                begin, found = error
                self._row = (begin, self._end)
                yield self._problem(begin, _reason(found))
            elif self._end == end:
                return

    def _read(self, end: int) -> tuple[Block, tuple[int, csv.Error] | None]:
        """Read a block, whatever its rows are; return it with the error that ends it, and where its row begins.

        Args:
            end: the line before it.
        """
        begins: list[int] = []
        ends: list[int] = []
        rows: list[list[str]] = []
        reader, before = self._rows, self._before
        try:
            for row in islice(reader, _AT_ONCE):
                begin, end = end + 1, before + reader.line_num
                if row:
                    begins.append(begin)
                    ends.append(end)
                    rows.append(row)
        except csv.Error as error:
            return Block(begins, ends, rows), (end + 1, error)
        return Block(begins, ends, rows), None

    def _one_by_one(self, block: Block) -> Iterator[Line]:
        """Return rows, and why others cannot be used."""
        width, faults = len(self.columns), dict(reversed(self._lines.faults))
        for begin, cells in self.lines_of(block):
            fault = next((line for line in range(begin, self._row[1] + 1) if line in faults), None)
            if fault is not None:
                yield self._problem(fault, faults[fault])
            elif len(cells) == width:
                yield begin, cells
            else:
                count = f"{len(cells):,} cell" + ("s" if len(cells) > 1 else "")
                more = f"; a cell with a {self._mark} needs quotes" if len(cells) > width else ""
                yield self._problem(begin, f"has {count}, the header has {width:,}{more}")

    def _problem(self, line: int, reason: str) -> Problem:
        """Return the problem of the row last read."""
        return Problem(self.source, line, reason)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def _delimiter(header: str) -> str:
    """Return what separates the cells: the mark that stands most often outside of quotes; if none does, no text.

    Then there is one column, and a comma or a tab in a line is part of its cell.
    """
    plain = _QUOTED.sub("", header)
    found = max(_MARKS, key=plain.count)
    return found if found in plain else _NO_MARK


def _reason(error: csv.Error) -> str:
    """Say what the csv module found, in words of ours where its own do not help."""
    if "unexpected end of data" in str(error):
        return "a quote is opened and never closed"
    if "field limit" in str(error):
        return f"a cell has more than {_FIELD_LIMIT:,} characters; a quote may not have been closed"
    if "expected after" in str(error):
        return "text stands behind a quoted cell; a quote inside of quotes is written twice"
    return f"cannot be read as CSV: {error}"
