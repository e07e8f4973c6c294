"""Checks of what 4 bits do to a model's endings."""

from math import comb
from statistics import median

from endmark.jobs.spelling import as_percent
from endmark.worker.doctor import commands
from endmark.worker.doctor.evidence import Evidence
from endmark.worker.doctor.findings import Finding, Level

_CHANCE = 0.1  # probability that as many rows or more would have become worse if better and worse were alike
_HELD = 0.5  # share of the EOS probability in 16 bits that is to be left in 4


def four_bits(evidence: Evidence) -> Finding | None:
    """More answers run on or loop in 4 bits than in 16, or EOS is less probable where they ended."""
    other = evidence.sixteen_bits
    if other is None or not other.rows:
        return None
    pairs = list(zip(evidence.rows, other.rows, strict=True))
    unended = _worse([(full.ended, row.ended) for row, full in pairs])
    looping = _worse([(not full.loop, not row.loop) for row, full in pairs])
    before, after = (median(side) for side in zip(*other.ends, strict=True)) if other.ends else (0.0, 0.0)
    weaker = bool(other.ends) and after < _HELD * before
    if not (unended or looping or weaker):
        return None
    ends = (
        f"; where it ends in 16 bits EOS stood at {as_percent(before)}, and in 4 bits at {as_percent(after)}"
        if other.ends
        else ""
    )
    return Finding(
        "four bits",
        Level.CAUSE if unended or looping else Level.RISK,
        "The model ends worse in 4 bits than in 16",
        f"of {len(pairs)} answers {len(evidence.ended)} ended by themselves, {other.ended} in 16 bits; "
        f"{len(evidence.looping)} end in a loop, {other.looping} in 16 bits{ends}",
        "`--strategy whole` takes loops back and lands answers; a larger model loses less in 4 bits",
        commands.run(evidence.facts, "--strategy whole"),
    )


def _worse(pairs: list[tuple[bool, bool]]) -> bool:
    """Whether more rows went from good to bad than chance would have it (one-sided sign test)."""
    bad = sum(full and not row for full, row in pairs)
    changed = bad + sum(row and not full for full, row in pairs)
    return bad > 0 and sum(comb(changed, count) for count in range(bad, changed + 1)) < _CHANCE * 2**changed
