"""Checks of the answers: what they end in, and how much room they had."""

from statistics import median

from endmark.worker.doctor import commands
from endmark.worker.doctor.evidence import Evidence
from endmark.worker.doctor.findings import Finding, Level

_LOOPING = 0.1  # share of answers in a loop that makes it a cause


def loops(evidence: Evidence) -> Finding | None:
    """Answers that repeat one stretch."""
    looping = [row for row in evidence.rows if row.loop]
    if not looping:
        return None
    quoted = looping[0].loop.strip()
    quoted = quoted if len(quoted) <= 60 else quoted[:57] + "…"
    return Finding(
        "loops",
        Level.CAUSE if len(looping) >= _LOOPING * len(evidence.rows) else Level.RISK,
        "Answers fall into a loop and repeat one stretch until the budget ends",
        f"{len(looping)} of {len(evidence.rows)} answers, one with “{quoted}” over and over",
        "`--strategy no-loops` ends them after the first copy; a temperature of 0.7 makes loops rarer",
        commands.run(evidence.facts, "--strategy whole"),
    )


def budget_too_small(evidence: Evidence) -> Finding | None:
    """A model that ends firmly, and answers that only needed more room."""
    ended, cut = evidence.ended, evidence.cut
    if not cut or len(ended) * 2 < len(evidence.rows) or median(row.prob_max for row in ended) < 0.9:
        return None
    longest = max(row.tokens for row in ended)
    if longest * 2 < evidence.budget:
        return None
    return Finding(
        "budget too small",
        Level.CAUSE,
        "Some answers are longer than the token budget",
        f"{len(ended)} of {len(evidence.rows)} ended by themselves, the longest after {longest} of "
        f"{evidence.budget} tokens; {len(cut)} were cut",
        "raise `--max-new-tokens`, or give `--on-truncation continue`",
        commands.run(evidence.facts, f"--max-new-tokens {2 * evidence.budget}"),
    )


def beyond_window(evidence: Evidence) -> Finding | None:
    """Prompts and budgets that go past the length of the rows that the model was trained on."""
    window = evidence.facts.window
    longest = max((row.prompt_tokens for row in evidence.rows), default=0)
    if window is None or longest + evidence.budget <= window:
        return None
    reached = [row for row in evidence.cut if row.prompt_tokens + row.tokens >= window]
    room = max(1, window - longest)
    return Finding(
        "beyond the window",
        Level.CAUSE if reached else Level.RISK,
        "Prompt and budget together are longer than the rows that the model was trained on",
        f"prompts have up to {longest} tokens, the budget is {evidence.budget}, and the model was trained on rows "
        f"of {window}; {len(reached)} of {len(evidence.rows)} answers were cut there or beyond",
        f"give `--max-new-tokens {room}` or shorter prompts, or take a model with a longer context",
        commands.run(evidence.facts, f"--max-new-tokens {room}"),
    )
