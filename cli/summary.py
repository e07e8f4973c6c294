"""What came of a job, in a few lines."""

from endmark.cli.export import named
from endmark.cli.progress import percent
from endmark.cli.status_view import tokens_of
from endmark.cli.terminal import one_line, printable
from endmark.jobs.progress import JobStatus
from endmark.jobs.spelling import counted, speed


def summary(status: JobStatus, output: str, error: tuple[str, int] | None = None) -> str:
    """Return the lines at the end of a run; `error` is the commonest one of its rows, and of how many."""
    done = status.succeeded + status.failed
    reasons = ", ".join(f"{name} {count:,}" for name, count in status.finish_reasons.items())
    lines = [
        ("rows", f"{status.total:,}"),
        ("complete", _share(status.complete, done)),
        *([("valid", _share(status.valid, status.shaped))] if status.shaped else []),
        ("truncated", _share(status.truncated, done)),
        ("failed", _share(status.failed, done)),
        *_why(status, error),
        ("finish reasons", reasons or "none"),
        (
            "tokens",
            f"{tokens_of(status)}, {speed(status.tokens_per_second)}",
        ),
        ("model", f"{one_line(status.model)}, strategies {one_line('; '.join(status.strategies))}"),
        ("results", printable(named(output))),
    ]
    return "\n".join(f"{name:<15} {text}" for name, text in lines)


def _share(part: int, whole: int) -> str:
    """Return a number and its share."""
    return f"{part:,} ({percent(part, whole)})"


def _why(status: JobStatus, error: tuple[str, int] | None) -> list[tuple[str, str]]:
    """Return the line that says why rows failed: the commonest reason, and of how many."""
    if error is None:
        return []
    reason, count = error
    return [
        ("mostly because" if count < status.failed else "because", f"{one_line(reason)} ({counted(count, 'row')})")
    ]
