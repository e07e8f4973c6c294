"""From stored jobs to a report: every row counted, some of them kept to be shown, the page written."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from endmark.cli.advice import spec_options_of
from endmark.cli.pages.advice import recommend
from endmark.cli.pages.arms import Answer, Arm
from endmark.cli.pages.report import Report, ShownRow, whole_time, write_page
from endmark.cli.pages.table import Cell, tabled
from endmark.cli.terminal import one_line, printable
from endmark.db.connection import Store
from endmark.db.export import stream_results
from endmark.db.export.stream import COLUMNS, read_probs
from endmark.db.jobs import Job, load_job
from endmark.db.progress import job_status
from endmark.db.summaries import load_traces
from endmark.jobs.errors import SpecError, UsageError
from endmark.jobs.outputs import check_writable, is_regular, written
from endmark.jobs.prompts import PromptPlan
from endmark.jobs.shapes import ShapeKind
from endmark.jobs.spelling import as_percent
from endmark.jobs.strategies import write_strategies

SHOWN = 500  # rows that a page holds
_LABELS = 20  # that a terminal is shown


def build_report(
    store: Store,
    jobs: Mapping[str, str],
    *,
    title: str,
    dataset: Sequence[str] = (),
    whole: int | None = None,
    shown: int = SHOWN,
) -> Report:
    """Return the report of jobs that ran the same rows.

    Args:
        jobs: the ids by their labels.
        dataset: words that name the dataset that the jobs are a sample of, and the engine, as `endmark run` takes
            them; none where they have all its rows.
        whole: rows of that dataset.
        shown: the most rows to keep for the page, evenly spaced.

    Raises:
        JobNotFound: there is none of that id.
        UsageError: they did not run the same rows.
    """
    loaded = {label: load_job(store, job_id) for label, job_id in jobs.items()}
    total = _common_total(list(loaded.values()))
    kept = range(0, total, max(1, -(-total // shown)))
    prompts: dict[int, str] = {}
    arms, answers, traces = [], [], []
    for label, job in loaded.items():
        arm, own_prompts, own = _read_arm(store, label, job, kept, dataset)
        if prompts and own_prompts != prompts:
            raise UsageError(
                f"the jobs {', '.join(jobs.values())} did not run the same rows", hint="report each of them alone"
            )
        prompts = own_prompts
        arms.append(arm)
        answers.append(own)
        traces.append(load_traces(store, job.id, kept))
    rows = [
        ShownRow(
            row,
            prompts[row],
            tuple(own.get(row) for own in answers),
            tuple(own.get(row, ()) for own in traces),
        )
        for row in kept
    ]
    made = f"Made by Endmark {version('endmark')} on {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}."
    return Report(title, tuple(arms), tuple(rows), total, whole, made)


def _common_total(jobs: Sequence[Job]) -> int:
    """Return how many rows each job has."""
    totals = {job.total for job in jobs}
    if len(totals) > 1:
        raise UsageError("the jobs have different numbers of rows", hint="report each of them alone")
    return totals.pop()


def _read_arm(
    store: Store, label: str, job: Job, kept: Sequence[int], dataset: Sequence[str]
) -> tuple[Arm, dict[int, str], dict[int, Answer]]:
    """Return a job's figures, and the prompts and answers of the rows that are kept."""
    status = job_status(store, job.id)
    spec = job.spec
    speed, options = status.tokens_per_second, spec_options_of(spec)
    command = _command(job, dataset)
    arm = Arm(label, job.id, spec.model, spec.adapter, spec.max_new_tokens, speed, options, command)
    plan = PromptPlan(job.columns, spec)
    has_labels = spec.shape is not None and spec.shape.kind is ShapeKind.CHOICES
    prompts: dict[int, str] = {}
    answers: dict[int, Answer] = {}
    for result in stream_results(store, job.id):
        values = dict(zip(COLUMNS, result.values, strict=True))
        answer = Answer.of(result.row, values)
        if answer is not None:
            arm.count(answer)
        named = values["choice"] or (answer.text if answer is not None and answer.valid and has_labels else None)
        if named is not None:
            prompt = partial(_prompt, plan, result.cells)
            arm.labels.count(result.row, named, read_probs(values["choice_probs"]), prompt)
        if result.row in kept:
            prompts[result.row] = _prompt(plan, result.cells)
            if answer is not None:
                answers[result.row] = answer
    return arm, prompts, answers


def _command(job: Job, dataset: Sequence[str]) -> str:
    """Return what gets the answers of all rows: a run of the dataset, or the export of a job that has them."""
    if not dataset:
        return shlex.join(["endmark", "export", job.id, "-o", "answers.csv"])
    words = ["endmark", "run", *dataset, "--strategy", write_strategies(job.spec.strategies)]
    return f"{shlex.join(words)} {spec_options_of(job.spec, here=True)} -o answers.csv"


def _prompt(plan: PromptPlan, row: Sequence[Any]) -> str:
    """Return what a row asks: its prompt, or the last turn of its chat."""
    try:
        request = plan.read(row)
    except SpecError as error:
        return f"({error})"
    return request.turns[-1]["content"] if request.turns else request.prompt or ""


def check_page(output: str) -> None:
    """Refuse a place where no page can be written.

    Raises:
        UsageError: it is one.
    """
    if output == "-":
        raise UsageError("the report is a page, not for standard output", hint="-o report.html")
    path = Path(output)
    check_writable(path)
    if path.suffix.lower() not in (".html", ".htm") and is_regular(path):
        raise UsageError(f"`{output}` is not the name of a page", hint="-o report.html")


def write_report(report: Report, output: str) -> None:
    """Write the page, whole or not at all.

    Raises:
        UsageError: the file cannot be written.
    """
    with written(Path(output)) as page:
        page.write(write_page(report))


def table(report: Report) -> str:
    """Return the report's table for a terminal: a column for each arm, and what is recommended."""
    made = tabled(report.arms, report.whole)
    columns = [made.headings, *([_cell(cell) for cell in line] for line in made.lines)]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]
    if made.folded:
        lines.append(f"none: {', '.join(made.folded)}")
    lines += _label_lines(report)
    advice = recommend(report.arms)
    if advice is not None:
        lines += ["", f"take `{one_line(advice.arm.label)}`:", *(f"  {one_line(text)}" for text in advice.reasons)]
        time = whole_time(report, advice)
        lines += ([f"  {time}"] if time else []) + ["", f"  {printable(advice.arm.command)}"]
    return "\n".join(lines)


def figures(report: Report) -> dict[str, Any]:
    """Return what a report tells as JSON values, its single answers left out."""
    return {
        "title": report.title,
        "rows": report.total,
        "jobs": [
            {
                "job": arm.job_id,
                "label": arm.label,
                "model": arm.model,
                "rows": arm.total,
                "ends": {end.name: count for end, count in arm.ends.items()},
                "complete": asdict(arm.complete),
                "truncated": asdict(arm.truncated),
                "valid": asdict(arm.valid) if arm.shaped else None,
                "completion_tokens": arm.token_sum,
                "tokens_per_second": arm.tokens_per_second,
                "labels": [asdict(item) for item in arm.labels.counts],
                "least_certain": [
                    {"row": item.row, "prompt": item.prompt, "choice_probs": dict(item.ranked)}
                    for item in arm.labels.unsure
                ],
            }
            for arm in report.arms
        ],
    }


def _label_lines(report: Report) -> list[str]:
    """Return the most frequent labels of each arm, for a terminal."""
    lines: list[str] = []
    for arm in report.arms:
        counts = arm.labels.counts
        lines += ["", f"labels of `{one_line(arm.label)}`:"] if counts else []
        for item in counts[:_LABELS]:
            expected = f", {item.expected:,.1f} expected" if item.expected is not None else ""
            lines.append(
                f"  {one_line(item.label, 40)}: {item.rows:,} ({as_percent(item.share.value, 1)}){expected}"
            )
        lines += [f"  and {len(counts) - _LABELS:,} more labels"] if len(counts) > _LABELS else []
    return lines


def _cell(cell: Cell) -> str:
    """Return a value with its interval."""
    return f"{one_line(cell.value)} ({cell.interval})" if cell.interval else one_line(cell.value)
