"""From a dataset file to a stored job: every row checked, stored a few thousand at a time, cut into shards."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from endmark.cli.rejects import bad_rows
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
from endmark.jobs.errors import Problem
from endmark.jobs.prompts import MESSAGES
from endmark.jobs.remote import file_name, is_url
from endmark.jobs.shards import shard_size
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import JobState

Deliveries = Sequence[tuple[NewDelivery, Key]]  # what is to be told, each with the key that proves it
CheckColumns = Callable[[Sequence[str]], None]


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
    check_columns: CheckColumns | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Submission:
    """Store a dataset as a job, whole or not at all.

    Args:
        path: the file, or `-`.
        options: the command's: `name`, `priority`, `format`, `delimiter`, `skip_bad_rows`.
        deliveries: what is to be told when the job has ended.
        check_columns: as `submit_rows` has it.
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
            check_columns=check_columns,
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
    check_columns: CheckColumns | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Submission:
    """Store an open dataset as a job, whole or not at all.

    Args:
        deliveries: what is to be told when the job has ended.
        reject: takes the bad rows, which are left out then.
        check_columns: is shown the columns before anything is stored, or, where rows bring columns, behind the
            last one; the error that it raises is this function's.
        on_progress: called with the rows stored so far.

    Raises:
        DatasetError: rows cannot be used, and nothing takes them.
        SpecError: the columns that the spec needs are not there.
    """
    spec = settled(spec, dataset, skip_bad_rows=reject is not None)
    if check_columns is not None and not dataset.grows:
        check_columns(dataset.columns)

    def columns() -> Sequence[str]:
        if check_columns is not None:
            check_columns(dataset.columns)
        return dataset.columns

    job = store_job(
        store,
        checked_rows(dataset, spec, on_bad=reject),
        spec,
        columns=columns,
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
    name = "stdin" if path == STDIN else file_name(path) if is_url(path) else Path(path).name
    return os.fsencode(name).decode(errors="replace")  # the names of files may be any bytes


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
