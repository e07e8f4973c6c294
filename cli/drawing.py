"""A sample of a dataset: every row checked, some of them drawn at random, always the same, and stored as a job."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from endmark.cli.rejects import bad_rows
from endmark.cli.submission import Submission, settled, store_job, tell_notes
from endmark.db.connection import Store
from endmark.jobs.datasets import checked_rows, open_dataset
from endmark.jobs.datasets.checking import NewRow
from endmark.jobs.spec import GenerationSpec


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of a dataset, in its order."""

    rows: list[NewRow]
    columns: Sequence[str]
    whole: int  # rows of the dataset
    spec: GenerationSpec  # with the dataset's own prompt column
    priority: int  # of the jobs


def draw(
    path: str, spec: GenerationSpec, size: int, options: dict[str, Any], on_progress: Callable[[int], None] | None
) -> Sample:
    """Check the whole dataset, and draw rows from it.

    Args:
        options: of the command: `format`, `delimiter`, `skip_bad_rows`, `priority`.
        on_progress: called with the rows checked so far.

    Raises:
        DatasetError: rows cannot be used, and are not to be left out.
    """
    skip = options["skip_bad_rows"]
    with (
        open_dataset(path, options["format"], delimiter=options["delimiter"]) as dataset,
        bad_rows(path, skip=skip) as reject,
    ):
        spec = settled(spec, dataset, skip_bad_rows=skip)
        rows, whole = _reservoir(checked_rows(dataset, spec, on_bad=reject), size, on_progress)
        tell_notes(dataset)
        return Sample(rows, dataset.columns, whole, spec, options["priority"])


def _reservoir(
    batches: Iterable[list[NewRow]], size: int, on_progress: Callable[[int], None] | None
) -> tuple[list[NewRow], int]:
    """Return rows of which each is as likely to be drawn as any other, always the same, and how many there are."""
    rng = random.Random(0)
    kept: list[tuple[int, NewRow]] = []
    seen = 0
    for batch in batches:
        for row in batch:
            if len(kept) < size:
                kept.append((seen, row))
            elif (place := rng.randrange(seen + 1)) < size:
                kept[place] = (seen, row)
            seen += 1
        if on_progress is not None:
            on_progress(seen)
    return [row for _, row in sorted(kept)], seen


def store_sample(store: Store, drawn: Sample, spec: GenerationSpec, name: str) -> Submission:
    """Store the rows as a job under a spec, which takes the dataset's own prompt column."""
    spec = replace(spec, prompt_column=drawn.spec.prompt_column)
    return store_job(store, [drawn.rows], spec, columns=lambda: drawn.columns, name=name, priority=drawn.priority)
