"""What a check of the doctor returns."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding explains."""

    CAUSE = "cause"  # why answers of this sample did not end, or are not whole
    RISK = "risk"  # what will go wrong elsewhere


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    check: str
    level: Level
    title: str  # the cause in plain words
    evidence: str
    fix: str
    command: str  # the fix, or its first step, to copy
