"""The report of one job, or of several that ran the same rows, as a page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from endmark.cli.pages import curves
from endmark.cli.pages.advice import Advice, recommend
from endmark.cli.pages.arms import Answer, Arm
from endmark.cli.pages.curves import LEVELS, Band, axes, band, encoded, stretch
from endmark.cli.pages.document import embedded, page
from endmark.cli.pages.lengths import lengths
from endmark.cli.pages.table import tabled
from endmark.jobs.spelling import counted
from endmark.jobs.vocabulary import ENDS, FinishReason


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row as the page shows it."""

    row: int
    prompt: str
    answers: tuple[Answer | None, ...]  # an arm each
    traces: tuple[Sequence[float], ...]  # an arm each; empty where there is none

    @property
    def differs(self) -> bool:
        """Whether its answers ended differently."""
        return len({answer and (answer.end, answer.complete) for answer in self.answers}) > 1


@dataclass(frozen=True, slots=True)
class Report:
    """What a page tells."""

    title: str
    arms: tuple[Arm, ...]
    rows: tuple[ShownRow, ...]
    total: int  # rows of each job
    whole: int | None = None  # rows of the dataset that the jobs are a sample of
    made: str = ""  # when, and by which version


@dataclass(frozen=True, slots=True)
class Bands:
    """The EOS probability of one arm's answers: of the complete ones, and of the others."""

    label: str
    groups: tuple[tuple[str, Band], ...]  # class in the stylesheet, band


def write_page(report: Report, back: str | None = None) -> str:
    """Return the page as HTML.

    Args:
        back: where a link at its top leads; without one it stands for itself.
    """
    advice = recommend(report.arms)
    longest = max((size for arm in report.arms for counted in arm.lengths.values() for size in counted), default=1)
    options = {arm.label: arm.options for arm in report.arms if arm.options}
    return page(
        "report.html",
        script="report.js",
        back=back,
        report=report,
        facts=_facts(report),
        options=options,
        common=next(iter(options.values())) if len(set(options.values())) == 1 else None,
        advice=advice,
        whole_time=whole_time(report, advice),
        table=tabled(report.arms, report.whole),
        lengths=[(arm.label, lengths(arm, longest)) for arm in report.arms],
        longest=longest,
        bands=_bands(report),
        axes=axes(_steps(report)),
        stretch=stretch(_steps(report)),
        ends=[end for end in ENDS if any(arm.ends[end] for arm in report.arms)],
        differing=sum(row.differs for row in report.rows),
        data=embedded(_data(report)),
    )


def whole_time(report: Report, advice: Advice | None) -> str | None:
    """Return how long the whole dataset would take under the arm recommended, in words; None if unknown."""
    if advice is None or report.whole is None:
        return None
    seconds = advice.arm.seconds_for(report.whole)
    return None if seconds is None else f"{report.whole:,} rows would take {span(seconds)} at this speed"


def span(seconds: float) -> str:
    """Return a length of time in words."""
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} seconds"


def _facts(report: Report) -> str:
    """Return what was run."""
    models = dict.fromkeys(arm.model for arm in report.arms)
    rows = counted(report.total, "row")
    if report.whole is not None and report.whole > report.total:
        rows = f"a sample of {report.total:,} of {report.whole:,} rows"
    jobs = ", ".join(arm.job_id for arm in report.arms)
    job = "jobs" if len(report.arms) > 1 else "job"
    return f"Model {', '.join(models)}; {_weights(report)}; {rows}; {job} {jobs}. {report.made}"


def _weights(report: Report) -> str:
    """Return with which weights the answers were computed; how many with each, where they differ."""
    found = sum((arm.weights for arm in report.arms), Counter[str]())
    if len(found) < 2:
        return f"weights {next(iter(found), 'unknown')}"
    return "weights " + ", ".join(f"{name} ({counted(count, 'answer')})" for name, count in found.most_common())


def _steps(report: Report) -> int:
    """Return the tokens at the right edge of the curves: of the longest answer that was traced."""
    return max((len(trace) for row in report.rows for trace in row.traces), default=1)


def _bands(report: Report) -> list[Bands]:
    """Return the bands of all arms; nothing where no row was traced."""
    steps = _steps(report)
    found = []
    for index, arm in enumerate(report.arms):
        traces: dict[str, list[Sequence[float]]] = {"whole": [], "cut": []}
        for row in report.rows:
            answer = row.answers[index]
            if answer is not None and answer.end.reason.has_answer:
                traces[_kind(answer)].append(row.traces[index])
        groups = tuple((kind, made) for kind, own in traces.items() if (made := band(own, steps)) is not None)
        if groups:
            found.append(Bands(arm.label, groups))
    return found


def _kind(answer: Answer) -> str:
    """Return the class in the stylesheet: a colour has one meaning on the page."""
    return ("whole" if answer.complete else "cut") if answer.end.reason.has_answer else "none"


def _data(report: Report) -> dict[str, object]:
    """Return the rows for the script."""
    return {
        "ends": {
            end.name: {"told": end.told, "cut": end.reason.truncated, "eos": end.reason is FinishReason.EOS}
            for end in ENDS
        },
        "arms": [arm.label for arm in report.arms],
        "rows": [
            {
                "row": row.row,
                "prompt": row.prompt,
                "differs": row.differs,
                "answers": [_answer(row, index) for index in range(len(row.answers))],
            }
            for row in report.rows
        ],
        "plot": {
            "levels": LEVELS,
            "left": curves.LEFT,
            "top": curves.TOP,
            "width": curves.WIDTH - curves.LEFT - curves.RIGHT,
            "height": curves.HEIGHT - curves.TOP - curves.BOTTOM,
            "steps": _steps(report),
        },
    }


def _answer(row: ShownRow, index: int) -> Mapping[str, object] | None:
    """Return an answer for the script; None where there is none yet."""
    answer = row.answers[index]
    if answer is None:
        return None
    return {
        "text": answer.text,
        "reasoning": answer.reasoning,
        "end": answer.end.name,
        "kind": _kind(answer),
        "complete": answer.complete,
        "open": answer.is_open,
        "tokens": answer.tokens,
        "attempts": answer.attempts,
        "stop": answer.stop_sequence,
        "error": answer.error,
        "most": answer.eos_prob_max,
        "curve": encoded(row.traces[index]),
    }
