"""One arm of a report: a job's answers, counted as they come, and the few that are shown."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from endmark.cli.pages.intervals import Interval, mean_of, wilson
from endmark.cli.pages.labels import Labels
from endmark.jobs.sentences import ends_sentence
from endmark.jobs.vocabulary import ENDS, End, Ending, FinishReason, Part


@dataclass(frozen=True, slots=True)
class Answer:
    """One row's result."""

    row: int
    text: str
    end: End
    tokens: int
    attempts: int
    stop_sequence: str | None = None
    error: str | None = None
    eos_prob_max: float | None = None
    complete: bool = False
    ending: Ending | None = None  # where the text ends; None where that has not been worked out
    reasoning: str | None = None  # what was thought before it
    in_thought: bool = False  # whether the row ended inside its thought
    valid: bool | None = None  # whether it is a whole value of its shape; None where it has none
    weights: str | None = None  # with which it was computed; None in rows of before that was noted

    @classmethod
    def of(cls, row: int, values: Mapping[str, Any]) -> "Answer | None":
        """Return the answer in an exported row's values; None while it has none."""
        reason = values["finish_reason"]
        if reason is None:
            return None
        return cls(
            row=row,
            text=values["response"] or "",
            end=End.of(reason, values["eos_source"]),
            tokens=values["completion_tokens"] or 0,
            attempts=values["attempts"],
            stop_sequence=values["stop_sequence"],
            error=values["error"],
            eos_prob_max=values["eos_prob_max"],
            complete=bool(values["complete"]),
            ending=Ending(values["ending"]) if values["ending"] else None,
            reasoning=values["reasoning"],
            in_thought=values["ended_in"] == Part.REASONING,
            valid=values["valid"],
            weights=values["weights"],
        )

    @property
    def at_sentence_end(self) -> bool:
        """Whether the text ends where a sentence ends."""
        return ends_sentence(self.text)

    @property
    def looped(self) -> bool:
        """Whether the text ends in a loop, whatever ended it."""
        return self.ending is Ending.LOOP

    @property
    def is_open(self) -> bool:
        """Whether the text ends inside a sentence, an item or a block."""
        return self.ending is Ending.OPEN


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
    command: str = ""  # that makes the answers of all rows so
    ends: Counter[End] = field(default_factory=Counter)
    lengths: dict[bool, Counter[int]] = field(default_factory=lambda: {True: Counter(), False: Counter()})
    complete_rows: set[int] = field(default_factory=set)
    sentence_ends: int = 0
    loops: int = 0
    in_thought: int = 0
    shaped: int = 0  # answers that have a shape
    valid_rows: int = 0  # of these, whole values of it
    labels: Labels = field(default_factory=Labels)  # of the answers that are one of some
    weights: Counter[str] = field(default_factory=Counter)  # answers by those with which they were computed

    def count(self, answer: Answer) -> None:
        """Take an answer into the figures."""
        self.ends[answer.end] += 1
        if not answer.end.reason.has_answer:
            return
        self.weights[answer.weights or "not noted"] += 1
        self.sentence_ends += answer.at_sentence_end
        self.loops += answer.looped
        self.in_thought += answer.in_thought
        self.shaped += answer.valid is not None
        self.valid_rows += answer.valid is True
        if answer.complete:
            self.complete_rows.add(answer.row)
        self.lengths[answer.complete][answer.tokens] += 1

    @property
    def total(self) -> int:
        """Rows that have a result."""
        return self.ends.total()

    @property
    def answered(self) -> int:
        """Rows that have an answer, complete or not."""
        return self._counted(lambda reason: reason.has_answer)

    @property
    def complete(self) -> Interval:
        """The share of complete answers."""
        return wilson(len(self.complete_rows), self.total)

    @property
    def valid(self) -> Interval:
        """The share of whole values among the answers that have a shape."""
        return wilson(self.valid_rows, self.shaped)

    @property
    def truncated(self) -> Interval:
        """The share of truncated answers."""
        return wilson(self._counted(lambda reason: reason.truncated), self.total)

    @property
    def at_sentence_end(self) -> Interval:
        """The share of answers that end where a sentence ends, truncated ones among them."""
        return wilson(self.sentence_ends, self.total)

    @property
    def looped(self) -> Interval:
        """The share of answers that end in a loop, whatever ended them."""
        return wilson(self.loops, self.total)

    @property
    def ended_in_thought(self) -> Interval:
        """The share of rows that ended inside their thought."""
        return wilson(self.in_thought, self.total)

    def share(self, end: End) -> Interval:
        """Return the share of answers that ended so."""
        return wilson(self.ends[end], self.total)

    @property
    def by_itself(self) -> float:
        """The share of answers that ended by themselves, or where they were asked to."""
        return sum(self.ends[end] for end in ENDS if end.by_itself) / self.total

    def _counted(self, which: Callable[[FinishReason], bool]) -> int:
        """Return how many rows ended for one of some reasons."""
        return sum(count for end, count in self.ends.items() if which(end.reason))

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
