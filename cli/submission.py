"""From a dataset file to a stored job: every row checked, stored a few thousand at a time, cut into shards."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endmark.cli.terminal import note, one_line
from endmark.db.connection import Store
from endmark.db.deliveries import add_deliveries
from endmark.db.jobs import (
    add_rows,
    begin_job,
    discard_submission,
    finish_submission,
    load_job,
    resume_job,
)
from endmark.jobs.datasets import STDIN, Dataset, checked_rows, open_dataset, settle
from endmark.jobs.datasets.checking import NewRow
from endmark.jobs.delivery.keys import Key
from endmark.jobs.delivery.word import NewDelivery
from endmark.jobs.errors import Problem, UsageError
from endmark.jobs.outputs import check_writable, is_regular, written
from endmark.jobs.prompts import MESSAGES
from endmark.jobs.remote import file_name, is_url
from endmark.jobs.shards import shard_size
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import counted
from endmark.jobs.vocabulary import JobState

_REJECTED = ["line", "reason", "content"]  # the columns of bad rows
Deliveries = Sequence[tuple[NewDelivery, Key]]  # what is to be told, each with the key that proves it


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that has just been stored, or is to go on."""

    job_id: str
    spec: GenerationSpec
    total: int  # rows


def submit_dataset(
    store: Store,
    path: str,
    spec: GenerationSpec,
    options: dict[str, Any],
    *,
    deliveries: Deliveries = (),
    on_progress: Callable[[int], None] | None = None,
) -> Submission:
    """Store a dataset as a job, whole or not at all.

    Args:
        path: the file, or `-`.
        options: the command's: `name`, `priority`, `format`, `delimiter`, `skip_bad_rows`.
        deliveries: what is to be told when the job has ended.
        on_progress: called with the rows stored so far.

    Raises:
        DatasetError: rows cannot be used, and are not to be left out.
        SpecError: the columns that the spec needs are not there.
        UsageError: the file cannot be read.
    """
    skip = options["skip_bad_rows"]
    with (
        open_dataset(path, options["format"], delimiter=options["delimiter"]) as dataset,
        bad_rows(path, skip=skip) as reject,
    ):
        name = options["name"] or dataset_name(path)
        return submit_rows(
            store,
            dataset,
            spec,
            name=name,
            priority=options["priority"],
            deliveries=deliveries,
            reject=reject,
            on_progress=on_progress,
        )


def submit_rows(
    store: Store,
    dataset: Dataset,
    spec: GenerationSpec,
    *,
    name: str,
    priority: int = 0,
    deliveries: Deliveries = (),
    reject: Callable[[Problem, str], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Submission:
    """Store an open dataset as a job, whole or not at all.

    Args:
        deliveries: what is to be told when the job has ended.
        reject: takes the bad rows, which are left out then.
        on_progress: called with the rows stored so far.

    Raises:
        DatasetError: rows cannot be used, and nothing takes them.
        SpecError: the columns that the spec needs are not there.
    """
    spec = settled(spec, dataset, skip_bad_rows=reject is not None)
    job = store_job(
        store,
        checked_rows(dataset, spec, on_bad=reject),
        spec,
        columns=lambda: dataset.columns,
        name=name,
        priority=priority,
        deliveries=deliveries,
        on_progress=on_progress,
    )
    tell_notes(dataset)
    return job


def tell_notes(dataset: Dataset) -> None:
    """Say what is worth a word about rows that were taken, once they have been read."""
    for text in dataset.notes.texts():
        note(text)


def resumed(store: Store, job_id: str) -> Submission:
    """Let a job go on that was paused or interrupted; one that has ended stays so.

    Raises:
        JobNotFound: there is none of that id.
        JobStateError: it was cancelled.
    """
    job = load_job(store, job_id)
    ended = job.state.is_final and job.state is not JobState.CANCELLED
    if not ended:
        resume_job(store, job_id)
    return Submission(job_id, job.spec, job.total)


def settled(spec: GenerationSpec, dataset: Dataset, *, skip_bad_rows: bool) -> GenerationSpec:
    """Return the spec with the dataset's own prompt column, as `settle` does, and say so where it was not named.

    A file without a header would else lose its first prompt unnoticed. A system turn that the model's chat
    template refuses is refused here.

    Raises:
        SpecError: the columns that the spec needs are not there.
    """
    if spec.system is not None or MESSAGES not in dataset.columns:
        from endmark.cli.template_check import (
            check_template,  # a template engine, for commands that make a job alone
        )

        check_template(spec)
    found = settle(spec, dataset, skip_bad_rows=skip_bad_rows)
    if found.prompt_column != spec.prompt_column:
        note(f"prompts are read from the only column, `{one_line(found.prompt_column)}`")
    return found


def dataset_name(path: str) -> str:
    """Return the name of a job on the dataset that is given no other."""
    return "stdin" if path == STDIN else file_name(path) if is_url(path) else Path(path).name


def store_job(
    store: Store,
    batches: Iterable[list[NewRow]],
    spec: GenerationSpec,
    *,
    columns: Callable[[], Sequence[str]],
    name: str,
    priority: int = 0,
    job_id: str | None = None,
    deliveries: Deliveries = (),
    on_progress: Callable[[int], None] | None = None,
) -> Submission:
    """Store rows as a job, whole or not at all.

    Args:
        batches: the rows, as `checked_rows` has them.
        columns: returns the columns, once the rows have been read.
        job_id: as `begin_job` has it.
        deliveries: what is to be told when the job has ended.
        on_progress: called with the rows stored so far.
    """
    job_id = begin_job(store, name=name, spec=spec, priority=priority, job_id=job_id)
    try:
        add_deliveries(store, job_id, deliveries)
        total = _store_rows(store, job_id, batches, on_progress)
        finish_submission(
            store, job_id, columns=columns(), total=total, shard_size=shard_size(total, spec.samples)
        )
    except BaseException:
        discard_submission(store, job_id)
        raise
    return Submission(job_id, spec, total)


def _store_rows(
    store: Store, job_id: str, batches: Iterable[list[NewRow]], on_progress: Callable[[int], None] | None
) -> int:
    """Store the batches, each while the next is read and checked; return the rows."""
    total = 0
    with ThreadPoolExecutor(1, "store") as storing:
        stored: Future[None] | None = None
        for batch in batches:
            if stored is not None:
                stored.result()
            cells, samples = zip(*batch, strict=True)
            several = any(sample is not None for sample in samples)
            stored = storing.submit(add_rows, store, job_id, total, cells, samples if several else ())
            total += len(batch)
            if on_progress is not None:
                on_progress(total)
        if stored is not None:
            stored.result()
    return total


def bad_rows(path: str, *, skip: bool) -> AbstractContextManager[Callable[[Problem, str], None] | None]:
    """Return what takes a dataset's bad rows, to be given to `checked_rows`; None where each is an error."""
    return _rejects(path) if skip else _no_rejects()


@contextmanager
def _no_rejects() -> Iterator[None]:
    """Take no bad row: each is an error."""
    yield None


@contextmanager
def _rejects(dataset: str) -> Iterator[Callable[[Problem, str], None]]:
    """Write bad rows to `<dataset>.rejected.csv`: line, reason, and the row as it stands; no file if none is bad.

    Bad rows of before are replaced, and no other file.

    Raises:
        UsageError: it cannot be written.
    """
    path = rejects_of(dataset)
    check_writable(path)
    if _holds_something_else(path):
        raise UsageError(
            f"`{path}` is there, and holds something else than bad rows",
            hint="move it away: they are written there",
        )
    count = 0
    with ExitStack() as files:
        writer: Any = None

        def reject(problem: Problem, raw: str) -> None:
            nonlocal count, writer
            if writer is None:
                writer = csv.writer(files.enter_context(written(path, errors="surrogateescape")))
                writer.writerow(_REJECTED)
            count += 1
            writer.writerow([problem.line, problem.reason, raw.rstrip("\r\n")])

        yield reject
    if count:
        note(f"{counted(count, 'bad row')} left out, with reasons in `{path}`")


def _holds_something_else(path: Path) -> bool:
    """Whether a file is there that holds no bad rows of before."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline(100).strip() not in (b"", ",".join(_REJECTED).encode())


def rejects_of(dataset: str) -> Path:
    """Return the file of a dataset's bad rows: beside it, or in the current folder if it is no regular file."""
    if is_url(dataset):
        return Path(f"{file_name(dataset)}.rejected.csv")
    if dataset == STDIN or not is_regular(Path(dataset)):
        return Path("stdin.rejected.csv")
    return Path(f"{dataset}.rejected.csv")
