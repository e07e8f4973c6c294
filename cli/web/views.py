"""What the pages show, from jobs and rows: states in words, bars, excerpts, curves."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from endmark.cli.advice import worker_command
from endmark.cli.pages.curves import Axes, axes, points
from endmark.cli.progress import percent, what_it_does
from endmark.db.browsing import FoundRow
from endmark.db.finetunings import FinetuneEntry
from endmark.jobs.errors import SpecError
from endmark.jobs.progress import JobStatus
from endmark.jobs.prompts import PromptPlan, Turn
from endmark.jobs.spelling import ago
from endmark.jobs.vocabulary import Attempt, End, Ending, FinishReason, JobState

_BAR = 1000.0  # units of a bar's width
_GOES_ON = ("queued", "running")  # states of a fine-tuning
_ENDED_MOST = 5  # fine-tunings that have ended
_EXCERPT = 200  # characters of a prompt in a list
_PLACES: Mapping[Ending | None, str] = {  # where an answer that is not complete stops
    Ending.OPEN: ", mid-sentence",
    Ending.PHRASE: ", behind a phrase",
    Ending.LOOP: ", in a loop",
    Ending.EMPTY: ", with no text",
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar, in thousandths of its width."""

    kind: str  # class in the stylesheet
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class JobView:
    """A job in a list, or at the top of its own page."""

    status: JobStatus
    does: str  # its state in words
    tone: str  # class in the stylesheet: live, good, bad or quiet
    bar: tuple[Segment, ...]
    told: str  # what the bar shows, in words
    when: str  # since when it has stood so, in words
    at: str  # the same as a time, in ISO form
    starts: str | None  # the command that starts a worker for it; None where it needs none

    @classmethod
    def of(cls, status: JobStatus) -> "JobView":
        """Return the view of a job."""
        parts = (
            ("whole", status.complete),
            ("cut", status.succeeded - status.complete),
            ("failed", status.failed),
        )
        bar, x = [], 0.0
        for kind, count in parts:
            width = _BAR * count / status.total if status.total else 0.0
            if width:
                bar.append(Segment(kind, round(x, 2), round(width, 2)))
            x += width
        words = ", ".join(
            f"{count:,} {name}" for name, count in zip(_PARTS, (c for _, c in parts), strict=True) if count
        )
        done = f"{status.finished:,} of {status.total:,} rows"
        at = status.created_at if status.finished_at is None else status.finished_at
        waits = status.state in (JobState.QUEUED, JobState.RUNNING) and not status.workers
        return cls(
            status=status,
            does=what_it_does(status),
            tone=_tone(status),
            bar=tuple(bar),
            told=f"{done}: {words}" if words else done,
            when=f"{'ended' if status.finished_at is not None else 'stored'} {ago(time.time() - at)}",
            at=datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds"),
            starts=worker_command(status.model, status.adapter) if waits else None,
        )


_PARTS = ("complete", "not complete", "failed")


def _tone(status: JobStatus) -> str:
    """Return how a job's state looks."""
    if status.state in (JobState.FAILED, JobState.COMPLETED_WITH_ERRORS):
        return "bad"
    if status.state is JobState.COMPLETED:
        return "good"
    return "live" if status.state is JobState.RUNNING and status.workers else "quiet"


def shown_finetunings(found: Sequence[FinetuneEntry]) -> list[FinetuneEntry]:
    """Return of all fine-tunings those that have not ended, and the newest of the others."""
    ended = [item for item in found if item.state not in _GOES_ON][:_ENDED_MOST]
    return [item for item in found if item.state in _GOES_ON or item in ended]


@dataclass(frozen=True, slots=True)
class EndLine:
    """How many rows ended in one way."""

    name: str
    label: str
    count: int
    share: str
    width: float  # of its bar, of a thousand


def end_lines(counts: Mapping[End, int]) -> list[EndLine]:
    """Return the ways in which a job's rows ended, in their usual order."""
    whole, most = sum(counts.values()), max(counts.values(), default=1)
    return [
        EndLine(end.name, end.label, count, percent(count, whole), round(_BAR * count / most, 1))
        for end, count in counts.items()
    ]


@dataclass(frozen=True, slots=True)
class Mark:
    """Where and why an answer stops, as it stands behind its text."""

    kind: str  # class in the stylesheet
    text: str


def mark_of(end: End | None, *, complete: bool, place: str = "") -> Mark:
    """Return the mark of a row's end."""
    if end is None:
        return Mark("none", "no result yet")
    kind = ("whole" if complete else "cut") if end.reason.has_answer else "failed"
    place = place if end.reason.has_answer else ""
    return Mark(kind, f"{'✂' if end.reason.truncated else '■'} {end.told}{place}")


@dataclass(frozen=True, slots=True)
class RowLine:
    """A row in a list of rows."""

    found: FoundRow
    prompt: str
    mark: Mark


def row_line(found: FoundRow, plan: PromptPlan | None) -> RowLine:
    """Return a row as it stands in a list."""
    turns = turns_of(plan, found.cells)
    prompt = turns[-1]["content"]
    clipped = prompt if len(prompt) <= _EXCERPT else prompt[:_EXCERPT] + "…"
    place = "" if found.complete else _PLACES.get(found.ending, "")
    return RowLine(found, clipped, mark_of(found.end, complete=found.complete, place=place))


def turns_of(plan: PromptPlan | None, cells: Sequence[Any]) -> tuple[Turn, ...]:
    """Return what a row asks, as the turns of a chat; a plain prompt is one of the user's."""
    try:
        if plan is None:
            raise SpecError("the job's columns do not fit its spec")
        request = plan.read(cells)
    except SpecError as error:
        return ({"role": "user", "content": f"({error})"},)
    return request.turns or ({"role": "user", "content": request.prompt or ""},)


def plan_of(columns: Sequence[str], spec: Any) -> PromptPlan | None:  # noqa: ANN401 - of the round wanted
    """Return how a job's rows are read; None where they cannot be."""
    try:
        return PromptPlan(columns, spec)
    except SpecError:
        return None


@dataclass(frozen=True, slots=True)
class AttemptView:
    """An attempt on the page of its row."""

    attempt: Attempt
    mark: Mark
    curve: str  # points of the line; empty where there is no trace
    axes: Axes | None
    end: tuple[str, str] | None  # where EOS was drawn, in the drawing's units


def attempt_view(attempt: Attempt) -> AttemptView:
    """Return the view of an attempt."""
    verdict = attempt.verdict
    stop = f" “{verdict.stop_sequence}”" if verdict.stop_sequence is not None else ""
    place = "" if attempt.complete else _PLACES.get(attempt.ending, "")
    mark = mark_of(verdict.end, complete=attempt.complete, place=stop + place)
    probs = attempt.trace.probs
    if not probs:
        return AttemptView(attempt, mark, "", None, None)
    line = points(probs, len(probs))
    x, _, y = line.rpartition(" ")[2].partition(",")
    return AttemptView(
        attempt, mark, line, axes(len(probs)), (x, y) if verdict.finish_reason is FinishReason.EOS else None
    )
