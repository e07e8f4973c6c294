"""From an uploaded file to a stored job: every request checked before any is stored."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from endmark.cli.submission import Submission, store_job
from endmark.db.connection import Store
from endmark.db.served_batches import ServedBatch
from endmark.jobs.compression import compression_of
from endmark.jobs.datasets import Dataset, checked_rows, settle
from endmark.jobs.datasets.base import Source
from endmark.jobs.datasets.checking import NewRow
from endmark.jobs.datasets.foreign import foreign_kind
from endmark.jobs.datasets.openai import COMPLETION, OpenAIDataset
from endmark.jobs.errors import DatasetError, Problem, UsageError
from endmark.jobs.spec import GenerationSpec

_HEAD = 4096  # bytes looked at to tell what a file is


@dataclass(frozen=True, slots=True)
class Terms:
    """What the service runs, and how much of it at once."""

    spec: GenerationSpec  # of every request that does not say otherwise
    max_requests: int


class Unusable(Exception):
    """A batch's file cannot be used; `errors` says why, as the API has it."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors[0]["message"])
        self.errors = errors


class Abandoned(Exception):
    """A batch was told to end while its file was checked; nothing was stored."""


def store_batch(
    store: Store, path: Path, batch: ServedBatch, job_id: str, terms: Terms, *, ended: Callable[[], bool]
) -> Submission:
    """Store a batch's requests as the job of that id, whole or not at all.

    Args:
        path: the uploaded file.
        ended: whether the batch was told to end; asked now and then.

    Raises:
        Unusable: the file cannot be read, or has a request that cannot be answered.
        Abandoned: the batch was told to end.
        StoreError: the database cannot be used.
    """
    try:
        content = path.open("rb")
        head = content.peek(_HEAD)[:_HEAD]
    except OSError as error:
        raise Unusable(
            [problem("the file is not there any more, or cannot be read", "file_unreadable")]
        ) from error
    spec = replace(terms.spec, raw=batch.endpoint == COMPLETION)
    try:
        with content:
            _refuse_foreign(head)
            with _Requests(content, batch.endpoint, spec.model) as dataset:
                spec = settle(spec, dataset, skip_bad_rows=False)
                rows = _limited(dataset, checked_rows(dataset, spec), terms.max_requests, ended)
                return store_job(store, rows, spec, columns=lambda: dataset.columns, name=batch.id, job_id=job_id)
    except DatasetError as error:
        raise Unusable([_described(item) for item in error.problems]) from error
    except UsageError as error:
        raise Unusable([problem(str(error))]) from error


def _refuse_foreign(head: bytes) -> None:
    """Refuse a file that begins as one of another kind, whose every line would be told apart.

    Raises:
        Unusable: it does.
    """
    packed = ("is compressed", "upload what is in it") if compression_of(head) else None
    kind = packed or foreign_kind(head)
    if kind is not None:
        raise Unusable([problem("the file {}: {}".format(*kind))])


def problem(message: str, code: str = "invalid_request", line: int | None = None) -> dict[str, Any]:
    """Return what is wrong with a batch, as the API describes it."""
    return {"code": code, "message": message, "line": line, "param": None}


def _described(found: Problem) -> dict[str, Any]:
    """Return a problem of a line as the API describes it."""
    return problem(found.reason, line=found.line or None)


def _limited(
    dataset: Dataset, batches: Iterator[list[NewRow]], most: int, ended: Callable[[], bool]
) -> Iterator[list[NewRow]]:
    """Pass rows on, up to the most that are taken; each answer of a request counts."""
    seen = 0
    for rows in batches:
        seen += len(rows)
        if seen > most:
            raise dataset.unusable(0, f"has more than {most:,} requests, each counted `n` times")
        if ended():
            raise Abandoned
        yield rows


class _Requests(OpenAIDataset):
    """The requests of a batch, all to one endpoint and one model."""

    def __init__(self, content: IO[bytes], endpoint: str, model: str) -> None:
        self._endpoint, self._model = endpoint, model
        super().__init__(Source("the file", content))  # type: ignore[arg-type] # a file that was opened to be read

    def shape(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a request's columns."""
        values = super().shape(record)
        if values["url"] != self._endpoint:
            raise ValueError(f"`url` is `{values['url']}`, the batch's endpoint `{self._endpoint}`")
        if values["model"] != self._model:
            raise ValueError(f"`body.model` is not `{self._model}`, the model that is served")
        return values
