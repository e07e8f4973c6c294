"""What a strategy is: its name, its parameters, and the four places in which it may act.

A strategy is pure arithmetic and text, so that it can be checked where a spec is built, without torch. Each
overrides the hooks of the places it acts in; the others do nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import nan
from typing import ClassVar, Protocol

from endmark.jobs.errors import SpecError
from endmark.jobs.vocabulary import Attempt, Verdict

Value = bool | int | float | str | tuple[str, ...]


class Place(StrEnum):
    """Where a strategy acts."""

    NOWHERE = "-"
    PROMPT = "prompt"
    SCORES = "scores"
    TOKEN = "new token"
    THOUGHT = "thought"
    AFTER = "after"
    ALL = "scores, new token, after"

    @property
    def is_scores(self) -> bool:
        """Whether a strategy there changes the scores; a row has at most one such."""
        return self in (Place.SCORES, Place.ALL)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a strategy. A tuple-valued one may be given several times."""

    name: str
    default: Value
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()  # of a text; none: any

    def parse(self, strategy: str, text: str) -> Value:
        """Read the parameter from the command line's text.

        Raises:
            SpecError: the text is not of the parameter's type.
        """
        where = f"`{strategy}:{self.name}={text}`"
        if isinstance(self.default, tuple):
            return (text,)
        if isinstance(self.default, str):
            return text
        kind = type(self.default)
        try:
            value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError) as error:
            raise SpecError(f"{where}: expected {_KIND_NAMES[kind]}") from error
        return value

    def check(self, strategy: str, value: Value) -> None:
        """Refuse a number outside the parameter's range, NaN too, and a text that is none of its choices.

        Raises:
            SpecError: it is.
        """
        if self.choices and value not in self.choices:
            raise SpecError(f"`{strategy}:{self.name}={value}`: must be one of {', '.join(self.choices)}")
        if not isinstance(value, int | float):
            return
        low, high = self.minimum, self.maximum
        if value != value or (low is not None and value < low) or (high is not None and value > high):
            bounds = [f"at least {low:g}"] if low is not None else []
            bounds += [f"at most {high:g}"] if high is not None else []
            raise SpecError(f"`{strategy}:{self.name}={value}`: must be {' and '.join(bounds)}")


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_KIND_NAMES: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}


class Scope(StrEnum):
    """Which part of a text a strategy looks at, where the model thinks before it answers."""

    ANSWER = "answer"
    REASONING = "reasoning"
    ALL = "all"


SCOPE = Parameter(
    "scope",
    Scope.ANSWER.value,
    "the part that it looks at, where the model thinks: `answer`, `reasoning` or `all`",
    choices=tuple(item.value for item in Scope),
)


@dataclass(frozen=True, slots=True)
class ScoreNumbers:
    """What the device step does to one row's scores before it samples token `n` (from 0) of the answer.

    Neutral by default; scores are fp32. In this order, with `m` the best score of a token that is no EOS id:

    1. published, where `ratio` is not NaN: every other token's score s becomes ``s * ratio * 10 * c`` and then
       ``s * 10 * c``, with c = fp32(1/e) where s > 0, fp32(e) where s < 0, and 1 at 0; each product is rounded
       to fp32, from left to right. Every EOS score becomes 100;
    2. decay: for `n > start`, an EOS score e becomes ``e + |e| * (min(factor ** (n - start), 1e30) - 1)``;
    3. ramp: an EOS score e becomes ``e + w * max(0, m + margin - e)``, where w rises from 0 at `start` to 1
       at `full` as ``x ** power`` with ``x = (n - start) / (full - start)``, and is 0 where `after_sentence` is
       set and no landing spot has just been reached. With a `bar`, in nats, w is 1 instead where the probability
       of the EOS ids is at least ``exp(-bar * x ** 0.25)``, and from `full` on, and 0 elsewhere;
    4. force: at ``n == force_at`` every other token is excluded.
    """

    start: float = 0.0
    full: float = 0.0  # no ramp where full <= start
    power: float = 1.0
    margin: float = 0.0
    after_sentence: bool = False
    factor: float = 1.0
    ratio: float = nan
    force_at: int = -1
    bar: float = 0.0  # none where it is 0

    @property
    def is_neutral(self) -> bool:
        """Whether the scores stay as the model gave them."""
        return self.full <= self.start and self.factor == 1.0 and self.ratio != self.ratio and self.force_at < 0


_NEUTRAL = ScoreNumbers()


class TextSoFar(Protocol):
    """The answer as the engine has decoded it, for strategies that look at each new token."""

    @property
    def token_ids(self) -> Sequence[int]:
        """The answer's tokens, the end token never among them."""

    @property
    def text(self) -> str:
        """The decoded answer; bytes of an unfinished character are left out until it is whole."""

    @property
    def lengths(self) -> Sequence[int]:
        """Characters of the text after each of the tokens."""

    @property
    def end_token_id(self) -> int | None:
        """The end token, once it has been sampled."""

    @property
    def ended_naturally(self) -> bool:
        """Whether the model would have chosen the end token without the row's strategies too."""


@dataclass(frozen=True, slots=True)
class EndHere:
    """What a watcher says when a row must end now."""

    verdict: Verdict
    text_length: int  # characters of the text to keep
    token_count: int  # tokens of the answer to keep


@dataclass(frozen=True, slots=True)
class TakeBack:
    """What a watcher says when a row must go on from an earlier place, with what would repeat made unlikely."""

    token_count: int  # tokens of the answer to keep
    temperature: float  # at least, from there on
    dry_multiplier: float  # at least
    then: "Watcher"  # that follows the row from there
    least: int = 0  # tokens behind it before the row may end


class Watcher(Protocol):
    """The state of one strategy on one row; sees the answer after each new token.

    It may be shown the same answer twice, and an answer whose first tokens are of an earlier attempt.
    """

    def see(self, answer: TextSoFar, *, last: bool) -> EndHere | TakeBack | None:
        """Return an ending if the row must end here, or where it is to be taken back to.

        Args:
            answer: the answer up to and including the new token.
            last: whether no token can follow (EOS was sampled, or the budget is spent).
        """


@dataclass(frozen=True, slots=True)
class FollowUp:
    """The next attempt of a row whose attempt was truncated."""

    keep_text: bool  # go on from the text so far instead of starting again
    strategies: tuple["Strategy", ...]
    max_new_tokens: int | None = None  # None: as before


class Strategy:
    """Base of all strategies; `parameters` holds the given values over the defaults."""

    name: ClassVar[str]
    place: ClassVar[Place]
    trims: ClassVar[bool] = False  # whether a cut answer is to end at its last landing spot
    summary: ClassVar[str]  # what it does, one line
    why: ClassVar[str]  # when to choose it, one line
    declared: ClassVar[tuple[Parameter, ...]] = ()

    def __init__(self, given: Mapping[str, Value] | None = None) -> None:
        self.given: dict[str, Value] = dict(given or {})
        for item in self.declared:
            if item.name in self.given:
                item.check(self.name, self.given[item.name])
        self.parameters = {item.name: self.given.get(item.name, item.default) for item in self.declared}
        self.validate()

    def validate(self) -> None:
        """Check what the parameters' own ranges cannot say.

        Raises:
            SpecError: the parameters do not fit together.
        """

    def number(self, name: str) -> float:
        """Return a numeric parameter."""
        value = self.parameters[name]
        assert isinstance(value, int | float)
        return value

    def string(self, name: str) -> str:
        """Return a text parameter."""
        value = self.parameters[name]
        assert isinstance(value, str)
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """Return a parameter that may be given several times."""
        value = self.parameters[name]
        assert isinstance(value, tuple)
        return value

    @property
    def sees_answer(self) -> bool:
        """Whether it looks at the answer."""
        return self.parameters.get(SCOPE.name) != Scope.REASONING

    @property
    def sees_thought(self) -> bool:
        """Whether it looks at the thought."""
        return self.parameters.get(SCOPE.name, Scope.ANSWER) != Scope.ANSWER

    def amend_prompt(self, prompt: str) -> str:
        """PROMPT: return the user's prompt as the model is to see it."""
        return prompt

    def score_numbers(self, budget: int) -> ScoreNumbers:
        """SCORES: return the row's numbers for a budget of that many new tokens."""
        del budget
        return _NEUTRAL

    def watcher(self) -> Watcher | None:
        """TOKEN: return the state that watches one row, or None."""
        return None

    def thought_watcher(self) -> Watcher | None:
        """TOKEN, THOUGHT: return what watches a row's thought, or None; its ending is that of the thought."""
        return None

    def follow_up(self, attempts: Sequence[Attempt], strategies: Sequence["Strategy"]) -> FollowUp | None:
        """AFTER: return what to try after the last, truncated attempt, or None to let it be.

        Args:
            attempts: the row's attempts so far, oldest first, at least one.
            strategies: those of the last attempt.
        """
        del attempts, strategies
        return None

    def __str__(self) -> str:
        from endmark.jobs.strategies.parsing import write_strategy

        return write_strategy(self)

    def __repr__(self) -> str:
        return f"<{self}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Strategy) and self.name == other.name and self.parameters == other.parameters

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted(self.parameters.items()))))
