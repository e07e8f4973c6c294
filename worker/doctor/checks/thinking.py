"""Checks of thoughts: budgets spent in them, ends inside them, nothing behind them, and thoughts nobody wanted."""

from endmark.jobs.vocabulary import Ending, FinishReason
from endmark.worker.doctor import commands
from endmark.worker.doctor.evidence import Evidence, RowEvidence
from endmark.worker.doctor.findings import Finding, Level

_OFTEN = 0.1  # share of the rows that makes it a cause


def thought_unfinished(evidence: Evidence) -> Finding | None:
    """Budgets that were spent before the thought was closed."""
    spent = [row for row in evidence.cut if row.in_thought]
    if not spent:
        return None
    closed = [row.thought_tokens for row in evidence.rows if row.thought_tokens and not row.in_thought]
    seen = f"; the longest thought that was closed has {max(closed)} tokens" if closed else ""
    budget = 4 * evidence.budget
    return Finding(
        "thought unfinished",
        Level.CAUSE,
        "The token budget ran out inside the thought, before there was an answer",
        f"{_share(spent, evidence)}, after {evidence.budget} tokens{seen}",
        "`think` gives the thought a budget of its own and closes it there, so that an answer follows; "
        "`--max-new-tokens` then counts the answer alone",
        commands.run(evidence.facts, f"--strategy 'think:budget={budget};whole'"),
    )


def eos_in_thought(evidence: Evidence) -> Finding | None:
    """Thoughts that the model ended with EOS, and no answer."""
    ended = [row for row in evidence.ended if row.in_thought]
    if not ended:
        return None
    return Finding(
        "EOS in the thought",
        _level(ended, evidence),
        "The model ends inside its thought, with no closing mark and no answer",
        f"{_share(ended, evidence)}; elsewhere they come back empty, with `stop`",
        "`think` makes an EOS inside the thought the closing mark, and the answer follows",
        commands.run(evidence.facts, "--strategy 'think;whole'"),
    )


def nothing_behind_thought(evidence: Evidence) -> Finding | None:
    """Thoughts that were closed, and an EOS right behind."""
    silent = [
        row for row in evidence.ended if row.thought_tokens and not row.in_thought and row.ending is Ending.EMPTY
    ]
    if not silent:
        return None
    return Finding(
        "nothing behind the thought",
        _level(silent, evidence),
        "The model closes its thought and ends at once, without an answer",
        f"{_share(silent, evidence)}; the first was to “{silent[0].prompt[:40]}”",
        "`whole` draws such answers again; a model that has learned to answer inside its thought is cured by "
        "training on examples with both parts",
        commands.run(evidence.facts, "--strategy whole"),
    )


def stopped_in_thought(evidence: Evidence) -> Finding | None:
    """Stop strings that were found in the thought."""
    stopped = [
        row for row in evidence.rows if row.in_thought and row.verdict.finish_reason is FinishReason.STOP_SEQUENCE
    ]
    if not stopped:
        return None
    return Finding(
        "stop in the thought",
        _level(stopped, evidence),
        "A stop string ends rows inside their thought",
        _share(stopped, evidence),
        "`stop` looks at the answer alone unless `scope` says otherwise: leave `scope` out",
        commands.run(evidence.facts, "--strategy 'stop:text=…'"),
    )


def thinking_not_wanted(evidence: Evidence) -> Finding | None:
    """Rows that were asked without a thought, and have one."""
    asked = [row for row in evidence.rows if row.asked_off]
    thinking = [row for row in asked if row.thought_tokens]
    if not thinking:
        return None
    return Finding(
        "thinking not wanted",
        Level.CAUSE,
        "The model thinks although the rows say that it should not: its chat template takes no such argument, or "
        "has another name for it",
        f"{len(thinking)} of {len(asked)} rows that were asked so",
        "see in the template how thinking is switched off, or close the thought at once",
        commands.run(evidence.facts, "--strategy think:budget=1"),
    )


def _share(rows: list[RowEvidence], evidence: Evidence) -> str:
    """Return how many of the sample's rows these are."""
    return f"{len(rows)} of {len(evidence.rows)} rows"


def _level(rows: list[RowEvidence], evidence: Evidence) -> Level:
    """Return how much so many rows weigh."""
    return Level.CAUSE if len(rows) >= _OFTEN * len(evidence.rows) else Level.RISK
