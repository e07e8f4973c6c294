"""Plain text: one prompt a line."""

from collections.abc import Iterator

from endmark.jobs.datasets.base import Dataset, Line, Source, TextLines
from endmark.jobs.errors import Problem


class LinesDataset(Dataset):
    """A text file without a header: each line is a prompt, in the column `prompt`; blank lines are passed over."""

    name = "txt"
    suffixes = (".txt",)

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._lines = TextLines(source)
        self.columns = ["prompt"]

    @classmethod
    def begins(cls, head: bytes) -> bool:
        """Return False: such a file is told by its name alone."""
        del head
        return False

    @property
    def raw(self) -> str:
        """The row last read."""
        return "".join(self._lines.taken)

    def __iter__(self) -> Iterator[Line]:
        """Return the rows and the problems."""
        lines = self._lines
        lines.begin_row()
        for text in lines:
            fault = lines.fault()
            if fault is not None:
                yield Problem(self.source, *fault)
            elif not text.isspace():
                yield lines.number, [text.rstrip("\r\n")]
            lines.begin_row()

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
