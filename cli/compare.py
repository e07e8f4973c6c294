"""`endmark compare`: the same rows under several strategies, and which of them to take."""

import shlex
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from endmark.cli.beforehand import check_broker, check_folders
from endmark.cli.crew import Crew
from endmark.cli.drawing import Sample, draw, store_sample
from endmark.cli.engines import engine_options, take_engine
from endmark.cli.notifying import wake_workers
from endmark.cli.options import adapter_folder, build_spec, chosen_strategies, spec_options
from endmark.cli.pages.gathering import build_report, check_page, table, write_report
from endmark.cli.progress import counting, job_progress
from endmark.cli.session import opened
from endmark.cli.submission import dataset_name
from endmark.cli.terminal import note
from endmark.cli.waiting import ended_like_by_ctrl_c, pause, wait_for
from endmark.db.connection import Store
from endmark.jobs.conflicts import consistent
from endmark.jobs.engines import EngineChoice
from endmark.jobs.errors import EndmarkError, Interrupted, UsageError
from endmark.jobs.settings import Settings
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import counted

_DEFAULT = ("baseline", "soft-landing", "whole")


@click.command(
    short_help="Run the same rows under several strategies, and say which to take.",
    epilog="""\b
Examples:
  endmark compare prompts.csv --strategy baseline --strategy whole -o report.html
  endmark compare prompts.csv --strategy "concise;whole" --adapter ./my-adapter -o report.html""",
)
@click.argument("dataset")
@click.option("-o", "--output", required=True, metavar="FILE", help="The page to write (HTML).")
@click.option(
    "--sample", type=click.IntRange(min=1), default=200, show_default=True, help="Rows to run, drawn from DATASET."
)
@spec_options
@engine_options
def compare(dataset: str, output: str, sample: int, **options: Any) -> None:  # noqa: ANN401
    """Run a sample of DATASET under each `--strategy`, one after the other; print a table and write a page.

    Strategies that are to act together are written as one: `--strategy "concise;whole"`. An `--adapter` is
    one more to compare, without any strategy. A single one is compared with `baseline`; without a `--strategy`:
    baseline, soft-landing, whole. Rows are the same for all, and so are their random numbers.
    """
    check_page(output)
    adapter, engine = options.pop("adapter"), take_engine(options)
    specs = _specs(options, adapter)
    with opened() as (settings, store), ended_like_by_ctrl_c():
        check_broker(settings, needed=True)
        for spec in specs.values():
            check_folders(*spec.queue)
        with counting("checked") as on_progress:
            drawn = draw(dataset, next(iter(specs.values())), sample, options, on_progress)
        name = options["name"] or dataset_name(dataset)
        note(f"{counted(len(drawn.rows), 'row')} of {drawn.whole:,}, {len(specs)} times")
        jobs = _run(settings, store, drawn, specs, name, output, engine)
        words = [*_dataset_words(dataset, options), *engine.words()]
        report = build_report(store, jobs, title=f"Strategies on {name}", dataset=words, whole=drawn.whole)
    write_report(report, output)
    click.echo(table(report))
    note(f"report: {output}")


def _dataset_words(dataset: str, options: dict[str, Any]) -> list[str]:
    """Return the words that name the dataset, with the options by which it was read."""
    words = [dataset]
    for name in ("format", "delimiter"):
        if options[name] is not None:
            words += [f"--{name}", options[name]]
    return [*words, "--skip-bad-rows"] if options["skip_bad_rows"] else words


def _specs(options: dict[str, Any], adapter: str | None) -> dict[str, GenerationSpec]:
    """Return what is compared, by its label.

    Raises:
        SpecError: an option is wrong.
        UsageError: there is nothing to compare with.
    """
    strategies = options["strategies"] or _DEFAULT
    if len(strategies) == 1 and adapter is None:
        strategies = (_DEFAULT[0], *strategies)
    options = {**options, "trace": True, "adapter": None}
    base = build_spec({**options, "strategies": ()})
    found: dict[str, GenerationSpec] = {}
    for text in strategies:
        spec = consistent(replace(base, strategies=chosen_strategies((text,), options["on_truncation"])))
        found["; ".join(map(str, spec.strategies))] = spec
    if adapter is not None:
        spec = replace(base, adapter=adapter_folder(adapter, base.model))
        found[f"{'; '.join(map(str, spec.strategies))} + {Path(adapter).name}"] = spec
    if len(found) < 2:
        raise UsageError("there is nothing to compare", hint="give a `--strategy` other than `baseline`")
    return found


def _run(
    settings: Settings,
    store: Store,
    drawn: Sample,
    specs: dict[str, GenerationSpec],
    name: str,
    output: str,
    engine: EngineChoice,
) -> dict[str, str]:
    """Run the jobs one after the other, so that each has the machine to itself; return their ids by label.

    A job is stored when its turn has come: workers take whatever is due.
    """
    ids: dict[str, str] = {}
    try:
        for _, group in groupby(specs.items(), key=lambda item: item[1].queue):
            members = list(group)
            with Crew(settings, store, members[0][1], engine) as crew:
                for label, spec in members:
                    job = store_sample(store, drawn, spec, f"{name}: {label}")
                    ids[label] = job.job_id
                    note(f"job {job.job_id}: {label}")
                    wake_workers(store, crew.broker_url, *job.spec.queue)
                    with job_progress() as show:
                        wait_for(store, job.job_id, crew, show)
    except KeyboardInterrupt:
        raise Interrupted("the comparison is broken off", hint=_to_go_on(store, ids, output)) from None
    except EndmarkError as error:
        error.hint = f"{error.hint or 'fix it'}\n{_to_go_on(store, ids, output)}"
        raise
    return ids


def _to_go_on(store: Store, ids: dict[str, str], output: str) -> str:
    """Pause the job that has not ended; return how to see what is done."""
    for job_id in ids.values():
        pause(store, job_id)
    if not ids:
        return "nothing has been run yet"
    return f"`endmark report {' '.join(ids.values())} -o {shlex.quote(output)}` shows what is done"
