"""One arm of a report: a job's answers, counted as they come, and the few that are shown."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from endmark.jobs.reporting.intervals import Interval, mean_of, wilson
from endmark.jobs.sentences import ends_sentence
from endmark.jobs.vocabulary import Ending as TextEnding


class Ending(StrEnum):
    """How an answer ended, whose EOS it was included."""

    NATURAL = "natural"
    BOOSTED = "boosted"
    FORCED = "forced"
    STOP = "stop_sequence"
    REPETITION = "repetition"
    LENGTH = "length"
    ERROR = "error"
    CANCELLED = "cancelled"


ENDED = (Ending.NATURAL, Ending.BOOSTED, Ending.FORCED, Ending.STOP)  # not truncated
CUT = (Ending.REPETITION, Ending.LENGTH)
NO_ANSWER = (Ending.ERROR, Ending.CANCELLED)


@dataclass(frozen=True, slots=True)
class Answer:
    """One row's result."""

    row: int
    text: str
    ending: Ending
    tokens: int
    attempts: int
    stop_sequence: str | None = None
    error: str | None = None
    eos_prob_max: float | None = None
    complete: bool = False
    looped: bool = False  # the text ends in a loop

    @classmethod
    def of(cls, row: int, values: Mapping[str, Any]) -> "Answer | None":
        """Return the answer in an exported row's values; None while it has none."""
        reason = values["finish_reason"]
        if reason is None:
            return None
        return cls(
            row=row,
            text=values["response"] or "",
            ending=Ending(values["eos_source"] or Ending.NATURAL) if reason == "eos" else Ending(reason),
            tokens=values["completion_tokens"] or 0,
            attempts=values["attempts"],
            stop_sequence=values["stop_sequence"],
            error=values["error"],
            eos_prob_max=values["eos_prob_max"],
            complete=bool(values["complete"]),
            looped=values["ending"] == TextEnding.LOOP,
        )

    @property
    def at_sentence_end(self) -> bool:
        """Whether the text ends where a sentence ends."""
        return ends_sentence(self.text)


@dataclass(slots=True)
class Arm:
    """A job of the report."""

    label: str
    job_id: str
    model: str
    adapter: str | None
    budget: int  # of new tokens
    tokens_per_second: float
    options: str = ""  # by which it is asked for again, its strategies apart
    endings: Counter[Ending] = field(default_factory=Counter)
    lengths: dict[bool, Counter[int]] = field(default_factory=lambda: {True: Counter(), False: Counter()})
    complete_rows: set[int] = field(default_factory=set)
    sentence_ends: int = 0
    loops: int = 0

    def count(self, answer: Answer) -> None:
        """Take an answer into the figures."""
        self.endings[answer.ending] += 1
        if answer.ending in NO_ANSWER:
            return
        self.sentence_ends += answer.at_sentence_end
        self.loops += answer.looped
        if answer.complete:
            self.complete_rows.add(answer.row)
        self.lengths[answer.complete][answer.tokens] += 1

    @property
    def total(self) -> int:
        """Rows that have a result."""
        return self.endings.total()

    @property
    def answered(self) -> int:
        """Rows that have an answer, complete or not."""
        return self.total - sum(self.endings[kind] for kind in NO_ANSWER)

    @property
    def complete(self) -> Interval:
        """The share of complete answers."""
        return wilson(len(self.complete_rows), self.total)

    @property
    def truncated(self) -> Interval:
        """The share of truncated answers."""
        return wilson(sum(self.endings[kind] for kind in CUT), self.total)

    @property
    def at_sentence_end(self) -> Interval:
        """The share of answers that end where a sentence ends, truncated ones among them."""
        return wilson(self.sentence_ends, self.total)

    @property
    def looped(self) -> Interval:
        """The share of answers that end in a loop, whatever ended them."""
        return wilson(self.loops, self.total)

    def share(self, ending: Ending) -> Interval:
        """Return the share of answers that ended so."""
        return wilson(self.endings[ending], self.total)

    @property
    def token_sum(self) -> int:
        """Tokens of all answers."""
        return sum(size * count for lengths in self.lengths.values() for size, count in lengths.items())

    @property
    def tokens(self) -> Interval:
        """Tokens of an answer, on average."""
        squares = sum(size * size * count for lengths in self.lengths.values() for size, count in lengths.items())
        return mean_of(self.token_sum, squares, self.answered)

    @property
    def seconds(self) -> float | None:
        """How long the job took; None if that is not known."""
        return self.token_sum / self.tokens_per_second if self.tokens_per_second and self.token_sum else None

    def seconds_for(self, rows: int) -> float | None:
        """Return how long that many rows would take at this job's speed."""
        seconds = self.seconds
        return seconds / self.total * rows if seconds is not None and self.total else None
