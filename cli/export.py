"""`endmark export`: a job's rows with their results, in input order."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import click

from endmark.cli.progress import counting
from endmark.cli.session import opened
from endmark.cli.terminal import TerminalText, hint, note
from endmark.db.connection import Store
from endmark.db.export import FORMATS, SUFFIXES, Only, check_target, export_job, export_traces, format_of
from endmark.db.jobs import load_job, resolve_job
from endmark.db.progress import job_status
from endmark.jobs.errors import UsageError
from endmark.jobs.outputs import check_writable, is_regular, same_file
from endmark.jobs.remote import check_url_writable, file_name, is_url, shown, upload
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import counted

STDOUT = "-"
OUTPUT_HELP = (
    f"The file of results: {', '.join(SUFFIXES)}; text ones may have .gz, .bz2, .xz or .zst behind;"
    " `-` is standard output; a URL such as `s3://bucket/results.csv` needs the extra `remote`."
)


parse_option = click.option(
    "--parse", is_flag=True, help="Give the fields of JSON answers columns of their own, behind the input's."
)


@click.command(
    short_help="Write a job's rows with their results to a file.",
    epilog="""\b
Examples:
  endmark export 3f2a91c0 -o results.csv
  endmark export latest -o cut.jsonl --only truncated
  endmark export latest -o results.csv --trace trace.jsonl; endmark doctor --trace trace.jsonl -o curves.html
  endmark export latest -o - | csvstat
  for k in 1 2 3 4; do endmark export latest --part $k/4 -o part-$k.csv & done; wait""",
)
@click.argument("job")
@click.option("-o", "--output", required=True, metavar="FILE", help=OUTPUT_HELP)
@click.option("--format", metavar="|".join(FORMATS), help="Format of the file.  [default: by its name]")
@click.option("--only", type=click.Choice(get_args(Only)), help="Leave out the other rows.")
@click.option("--excel-safe", is_flag=True, help="Defuse cells that a spreadsheet would run as formulas.")
@parse_option
@click.option(
    "--part", metavar="K/N", help="Write the K-th of N parts alone, as one of N processes may do at once."
)
@click.option("--trace", metavar="FILE", help="Also write each row's EOS probabilities, as JSON lines.")
def export(
    job: str,
    output: str,
    format: str | None,
    only: Only | None,
    excel_safe: bool,
    parse: bool,
    part: str | None,
    trace: str | None,
) -> None:
    """Write a job's rows in input order: `row`, the dataset's columns, then the answer and its verdict.

    A job that still runs can be exported too; rows without a result have empty cells. The file appears when it is
    whole. JOB is an id, the beginning of one, or `latest`.
    """
    check_output(output, format=format)
    options = {"excel_safe": excel_safe, "parse": parse, "part": None if part is None else _read_part(part)}
    if trace is not None:
        check_trace(trace, output)
        if part is not None:
            raise UsageError("`--trace` is of all rows", hint="write it once, without `--part`")
    with opened() as (_, store):
        job_id = resolve_job(store, job)
        count = write_results(store, job_id, output, format=format, only=only, **options)
        if trace is not None:
            write_traces(store, job_id, trace)
        status = job_status(store, job_id)
    whole = "" if part is None else f", part {part},"
    note(f"{counted(count, 'row')} of job {job_id}{whole} written to {named(output)}")
    missing = status.pending + status.running
    if missing:
        note(f"job {job_id} is {status.state}: {counted(missing, 'row')} without a result yet")


def _read_part(part: str) -> tuple[int, int]:
    """Return the number of a part and how many there are.

    Raises:
        UsageError: it names none.
    """
    number, slash, count = part.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"`{part}` is no part", hint="`--part 2/8` is the second of eight")
    return int(number), int(count)


def write_results(
    store: Store,
    job_id: str,
    output: str,
    *,
    format: str | None = None,
    only: Only | None = None,
    **options: Any,  # noqa: ANN401
) -> int:
    """Export a job to a file or standard output; return the rows.

    Args:
        options: `excel_safe`, `parse` and `part`, as `export_job` has them.
    """
    if is_url(output):
        return _write_remote(store, job_id, output, format=format, only=only, **options)
    path = None if output == STDOUT else Path(output)
    chosen = format_of(path, format)
    with counting("written") as on_progress:
        if path is not None:
            return export_job(store, job_id, path, format=chosen, only=only, on_progress=on_progress, **options)
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")  # type: ignore[union-attr]
        stream = TerminalText(sys.stdout) if sys.stdout.isatty() else sys.stdout
        with redirect_stdout(stream):
            return export_job(store, job_id, None, format=chosen, only=only, **options)


def _write_remote(store: Store, job_id: str, url: str, **options: Any) -> int:  # noqa: ANN401
    """Export a job to a file of this machine, and put it, with what stands beside it, where a URL says."""
    with TemporaryDirectory(prefix="endmark-") as folder:
        count = write_results(store, job_id, str(Path(folder) / file_name(url)), **options)
        upload(sorted(Path(folder).iterdir()), url)
    return count


def write_traces(store: Store, job_id: str, output: str) -> None:
    """Export a job's traces to a file."""
    count = export_traces(store, job_id, Path(output))
    note(f"EOS probabilities of {counted(count, 'row')} written to {named(output)}")
    if not load_job(store, job_id).spec.trace:
        hint(
            "the job ran without `--trace`, so the file tells each row's highest probability and not every step's"
        )


def check_trace(trace: str, output: str) -> None:
    """Refuse a file of traces that could not be written in the end.

    Raises:
        UsageError: it could not, or it is the file of results.
    """
    if trace == STDOUT:
        raise UsageError("standard output is the results' own", hint="name a file: `--trace trace.jsonl`")
    if output != STDOUT and is_regular(Path(output)) and Path(trace).resolve() == Path(output).resolve():
        raise UsageError(f"`{trace}` is the file of results too", hint="name another one for the traces")
    check_writable(Path(trace))


def check_output(output: str, *, format: str | None = None, dataset: str | None = None) -> None:
    """Refuse a file of results that could not be written in the end.

    Args:
        format: the format asked for, if not by the name.
        dataset: the file that is read meanwhile, or `-`; the results will not be much smaller.

    Raises:
        UsageError: it could not, or it is the dataset itself.
    """
    if is_url(output):
        if output == dataset:
            raise UsageError(f"{named(output)} is the dataset itself", hint="name another file for the results")
        format_of(Path(file_name(output)), format)
        check_url_writable(output)
        return
    source = None if dataset is None or is_url(dataset) else 0 if dataset == STDOUT else Path(dataset)
    if source is not None and same_file(source, 1 if output == STDOUT else Path(output)):
        raise UsageError(f"{named(output)} is the dataset itself", hint="name another file for the results")
    if output == STDOUT:
        format_of(None, format)
        return
    if output.endswith("/"):
        raise UsageError(f"`{output}` is a folder", hint="name a file in it")
    room = source.stat().st_size if isinstance(source, Path) and source.is_file() else 0
    check_target(Path(output), format, room=room)


def tell_left_out(spec: GenerationSpec, output: str) -> None:
    """Say so where a file of results, as `check_output` takes it, leaves out what the job keeps."""
    path = None if output == STDOUT else Path(file_name(output) if is_url(output) else output)
    if spec.logprobs is not None and not FORMATS[format_of(path)].logprobs:
        note(f"{named(output)} leaves out the log probabilities that the job keeps: a `.jsonl` file has them")


def named(output: str) -> str:
    """Return the output as messages call it."""
    return "standard output" if output == STDOUT else f"`{shown(output) if is_url(output) else output}`"
