"""What of the doctor's options can be known to fail: refused before torch is imported, which takes seconds."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from endmark.db.export.traces import trace_head
from endmark.jobs.datasets import STDIN, open_dataset, settle
from endmark.jobs.errors import UsageError
from endmark.jobs.outputs import is_regular
from endmark.jobs.prompts import DEFAULT_PROMPT
from endmark.jobs.remote import is_url
from endmark.jobs.spec import GenerationSpec


def check_options(options: argparse.Namespace, spec: GenerationSpec) -> None:
    """Refuse options that exclude each other, and files that cannot be read.

    Args:
        options: as `endmark.worker.doctor.__main__` reads them.
        spec: of its sample.

    Raises:
        UsageError: saying which.
    """
    if options.trace is not None:
        of_a_run = next(_of_a_run(options), None)
        if of_a_run is not None:
            raise UsageError(
                f"`{of_a_run}` is about running a sample, and `--trace` looks at a job that has run",
                hint="leave one of the two out",
            )
        trace_head(options.trace)
    elif options.dataset is None:
        if options.template is not None or options.prompt_column != DEFAULT_PROMPT:
            named = "--template" if options.template is not None else "--prompt-column"
            raise UsageError(f"`{named}` is about the columns of a dataset", hint="name one: `--dataset FILE`")
    elif _can_be_read_twice(options.dataset):
        with open_dataset(options.dataset) as dataset:
            settle(spec, dataset, skip_bad_rows=False)


def _of_a_run(options: argparse.Namespace) -> Iterator[str]:
    """Yield the options that say what a sample is of."""
    given = {
        "--dataset": options.dataset,
        "--adapter": options.adapter,
        "--system": options.system,
        "--template": options.template,
        "--template-arg": options.template_arg,
        "--raw": options.raw,
        "--compare-precision": options.compare_precision,
    }
    yield from (name for name, value in given.items() if value)


def _can_be_read_twice(path: str) -> bool:
    """Whether a dataset is a file of this machine, or nothing: a pipe's rows would be gone, a URL's cost time."""
    return path != STDIN and not is_url(path) and (is_regular(Path(path)) or Path(path).is_dir())
