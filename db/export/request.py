"""What a format's writer is told besides the rows, and where a second file of it goes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from endmark.db.export.stream import Batch, Result
from endmark.db.jobs import Job


@dataclass(frozen=True, slots=True)
class Export:
    """One export under way."""

    job: Job
    columns: tuple[str, ...]  # the input's, as they are to come out
    batches: Callable[[], Iterator[Batch]]  # the results, in input order; may be asked for again
    excel_safe: bool = False  # put a quote before cells that a spreadsheet would run as formulas
    unanswered: tuple[str, str] | None = (
        None  # code and message for rows without a result, where OpenAI's has them
    )
    beside: Callable[[str], IO[str]] | None = None  # opens a second file, named by its ending; None on a stream

    # The results of all parts, where these are of one: by them the parts' columns and types are the same.
    whole: Callable[[], Iterator[Batch]] | None = None

    def all_batches(self) -> Iterator[Batch]:
        """Return the results by which columns and their types are told."""
        return (self.whole or self.batches)()

    def rows(self) -> Iterator[Result]:
        """Yield the results one by one."""
        for batch in self.batches():
            yield from batch.results()


@dataclass(frozen=True, slots=True)
class Format:
    """A format of results. A module `as_*` beside this one names its own in `FORMATS`; nothing else knows them."""

    write: Callable[[IO[Any], Export], None]
    suffixes: tuple[str, ...] = ()  # of file names
    binary: bool = False
    check: Callable[[], object] = lambda: None  # raises MissingDependency where a library is not installed
    beside: str | None = None  # the ending of the second file that it may write
    logprobs: bool = False  # whether it tells the log probabilities of tokens
