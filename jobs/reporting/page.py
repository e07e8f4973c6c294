"""The report as one page that needs no network and runs nothing that a model has written.

Every text from a model or a dataset is escaped, or reaches the page's script as JSON and the screen as plain
text; a content security policy with the hashes of the page's one style and one script forbids all else.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files

from endmark.jobs.reporting.advice import Advice, percent, recommend
from endmark.jobs.reporting.arms import Answer, Arm
from endmark.jobs.reporting.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LEVELS,
    RIGHT,
    TOP,
    WIDTH,
    Curve,
    drawing,
    encoded,
    frame,
)
from endmark.jobs.reporting.histogram import histogram
from endmark.jobs.reporting.table import cells, headings
from endmark.jobs.vocabulary import ENDS, FinishReason

_CURVES = 40  # drawn together, of each arm


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row as the page shows it."""

    row: int
    prompt: str
    answers: tuple[Answer | None, ...]  # an arm each
    traces: tuple[Sequence[float], ...]  # an arm each; empty where there is none


@dataclass(frozen=True, slots=True)
class Report:
    """What a page tells."""

    title: str
    arms: tuple[Arm, ...]
    rows: tuple[ShownRow, ...]
    total: int  # rows of each job
    whole: int | None = None  # rows of the dataset that the jobs are a sample of
    made: str = ""  # when, and by which version


def write_page(report: Report) -> str:
    """Return the page as HTML."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escape(report.title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{escape(report.title)}</h1>
<p class="soft">{escape(_facts(report))}</p>
{_options(report)}
{_advice(report)}
<h2>How the answers ended</h2>
<div class="wide">{_table(report)}</div>
<p class="key">Shares of all rows, with 95 % intervals by Wilson's formula. A <i>complete</i> answer was not
truncated and ends where a sentence ends. <i>Boosted</i> and <i>forced</i> ends are a strategy's doing,
<i>natural</i> ones the model's own. The speed is one measurement: how much another run would differ cannot be seen
in this one, and so it has no interval.</p>
<h2>Lengths</h2>
<p class="key"><b class="ended">Complete answers</b> and <b class="cut">the others</b>, by tokens.</p>
<div class="arms">{_histograms(report)}</div>
{_curves(report)}
<h2>Answers</h2>
{_browser(report)}
<script type="application/json" id="data">{_data(report)}</script>
<script>{script}</script>
</body>
</html>
"""


@cache
def _asset(name: str) -> str:
    """Return a file of this package."""
    return (files("endmark.jobs.reporting") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash by which the policy knows a text."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(report: Report) -> str:
    """Return what was run."""
    models = dict.fromkeys(arm.model for arm in report.arms)
    rows = f"{report.total:,} rows"
    if report.whole is not None and report.whole > report.total:
        rows = f"a sample of {report.total:,} of {report.whole:,} rows"
    jobs = ", ".join(arm.job_id for arm in report.arms)
    return f"Model {', '.join(models)}; {rows}; job{'s' if len(report.arms) > 1 else ''} {jobs}. {report.made}"


def _options(report: Report) -> str:
    """Return the options by which the jobs can be run again: once, or for each arm where they differ."""
    arms = [arm for arm in report.arms if arm.options]
    if len({arm.options for arm in arms}) > 1:
        lines = [f"<li>{escape(arm.label)}: <code>{escape(arm.options)}</code></li>" for arm in arms]
        return f'<ul class="soft">{"".join(lines)}</ul>'
    return f'<p class="soft">Run with <code>{escape(arms[0].options)}</code></p>' if arms else ""


def _advice(report: Report) -> str:
    """Return the recommendation."""
    advice = recommend(report.arms)
    if advice is None:
        return ""
    reasons = "".join(f"<li>{_ticked(reason)}</li>" for reason in advice.reasons)
    time = _whole_dataset(report, advice)
    return (
        f'<section class="advice"><h2>Take <code>{escape(advice.arm.label)}</code></h2>'
        f"<ul>{reasons}{time}</ul></section>"
    )


def _whole_dataset(report: Report, advice: Advice) -> str:
    """Return how long the whole dataset would take."""
    seconds = advice.arm.seconds_for(report.whole) if report.whole is not None else None
    return (
        ""
        if seconds is None
        else f"<li>{report.whole:,} rows would take {escape(span(seconds))} at this speed</li>"
    )


def span(seconds: float) -> str:
    """Return a length of time in words."""
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} seconds"


def _ticked(text: str) -> str:
    """Return a text, escaped, in which backticks mark code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _table(report: Report) -> str:
    """Return the table of all arms."""
    names = headings(report.whole)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    lines = []
    for arm in report.arms:
        row = "".join(
            f'<td data-label="{escape(name)}">{escape(value)}<small>{escape(interval)}</small></td>'
            for name, (value, interval) in list(zip(names, cells(arm, report.whole), strict=True))[1:]
        )
        lines.append(f'<tr><th scope="row">{escape(arm.label)}</th>{row}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _histograms(report: Report) -> str:
    """Return the lengths of all arms, on one scale."""
    longest = max((size for arm in report.arms for lengths in arm.lengths.values() for size in lengths), default=1)
    return "".join(
        f"<figure><figcaption>{escape(arm.label)}</figcaption>{histogram(arm, longest)}</figure>"
        for arm in report.arms
    )


def _curves(report: Report) -> str:
    """Return the EOS curves of all arms; nothing where no row was traced."""
    drawings = []
    for index, arm in enumerate(report.arms):
        traced = [row for row in report.rows if row.traces[index] and row.answers[index]]
        if traced:
            step = max(1, len(traced) // _CURVES)
            curves = [_curve(row, index) for row in traced[::step][:_CURVES]]
            label = f"EOS probability of {len(curves)} answers of {arm.label}, token by token"
            caption = f"<figcaption>{escape(arm.label)}: {len(curves)} answers</figcaption>"
            drawings.append(f"<figure>{caption}{drawing(curves, _axis(report), label)}</figure>")
    if not drawings:
        return '<p class="key">No EOS probabilities were kept; <code>--trace</code> keeps them.</p>'
    return (
        '<h2>EOS probability</h2><p class="key">Mass over all end tokens before temperature, top-k, top-p and any '
        'strategy. <b class="ended">Answers that ended</b>, <b class="cut">cut ones</b>; a dot is an EOS.</p>'
        f'<div class="arms curves">{"".join(drawings)}</div>'
    )


def _curve(row: ShownRow, index: int) -> Curve:
    """Return one answer's curve."""
    answer = row.answers[index]
    reason = answer.end.reason if answer else FinishReason.ERROR
    cut = reason.truncated or not reason.has_answer
    return Curve(row.prompt, row.traces[index], cut=cut, ended=reason is FinishReason.EOS)


def _axis(report: Report) -> int:
    """Return the tokens at the right edge of the curves."""
    traced = (len(trace) for row in report.rows for trace in row.traces)
    return max([*traced, *(arm.budget for arm in report.arms)], default=1)


def _browser(report: Report) -> str:
    """Return the part in which rows are looked at."""
    arms = "".join(
        f'<option value="{index}">{escape(arm.label)}</option>' for index, arm in enumerate(report.arms)
    )
    endings = "".join(f'<option value="{end.name}">{escape(end.label)}</option>' for end in ENDS)
    fewer = "" if len(report.rows) >= report.total else f" of {report.total:,}, evenly spaced"
    return f"""<form id="filters">
<label>Contains <input id="words" type="search" autocomplete="off"></label>
<label>Ended <select id="ending"><option value="">any way</option><option value="cut">truncated</option>
<option value="complete">complete</option><option value="middle">amid a sentence</option>{endings}</select></label>
<label>Under <select id="arm"><option value="">any</option>{arms}</select></label>
<label><input id="differ" type="checkbox"> Ended differently</label>
</form>
<p class="soft"><span id="count">{len(report.rows):,}</span> rows{fewer}</p>
<nav><button type="button" id="previous" aria-label="Previous row">←</button>
<select id="row" aria-label="Row"></select>
<button type="button" id="next" aria-label="Next row">→</button></nav>
<p id="prompt"></p>
<div id="answers"></div>
<template id="card"><article><h3></h3><p class="ending"></p><pre></pre><div class="curve">
{frame('<polyline/><circle r="3"/>', _axis(report), "EOS probability, token by token")}</div></article></template>
<noscript><p>Looking at single rows needs JavaScript; everything above does not.</p></noscript>"""


def _data(report: Report) -> str:
    """Return the rows for the script, in JSON that cannot end the element it stands in."""
    values = {
        "ends": {
            end.name: {"told": end.told, "cut": end.reason.truncated, "eos": end.reason is FinishReason.EOS}
            for end in ENDS
        },
        "arms": [arm.label for arm in report.arms],
        "budgets": [arm.budget for arm in report.arms],
        "rows": [
            {
                "row": row.row,
                "prompt": row.prompt,
                "answers": [_answer(row, index) for index in range(len(row.answers))],
            }
            for row in report.rows
        ],
        "plot": {
            "levels": LEVELS,
            "left": LEFT,
            "top": TOP,
            "width": WIDTH - LEFT - RIGHT,
            "height": HEIGHT - TOP - BOTTOM,
            "steps": _axis(report),
        },
    }
    text = json.dumps(values, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _answer(row: ShownRow, index: int) -> Mapping[str, object] | None:
    """Return an answer for the script; None where there is none yet."""
    answer = row.answers[index]
    if answer is None:
        return None
    return {
        "text": answer.text,
        "ending": answer.end.name,
        "complete": answer.complete,
        "whole": answer.at_sentence_end,
        "answered": answer.end.reason.has_answer,
        "tokens": answer.tokens,
        "attempts": answer.attempts,
        "stop": answer.stop_sequence,
        "error": answer.error,
        "most": answer.eos_prob_max,
        "curve": encoded(row.traces[index]),
    }


__all__ = ["Report", "ShownRow", "percent", "span", "write_page"]
