"""The kinds of values that parameters of sampling have: numbers in a range, biases of tokens, texts.

Each reads a value as a user writes it and as JSON has it, checks it and writes it again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from endmark.jobs.errors import SpecError

MOST_BIASES = 1024  # of one row
MOST_WORDS = 64  # texts of one row
_LARGEST_BIAS = 100.0


class Kind(Protocol):
    """A kind of value."""

    @property
    def metavar(self) -> str:
        """What stands for a value in the help."""

    @property
    def extent(self) -> str:
        """Which values there are, for the docs."""

    @property
    def device(self) -> type[int] | type[float] | None:
        """Its type among the device's numbers of a row; None if it is no number, or too wide for them."""

    @property
    def structured(self) -> bool:
        """Whether a cell may hold it as a JSON array or object."""

    def read(self, text: str) -> Any:  # noqa: ANN401 - a value of the kind
        """Read a value as a user writes it.

        Raises:
            ValueError: it is none of this kind; the message says what is expected.
        """

    def from_json(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value, a value of the kind
        """Return a JSON value in the kind's own type; one that is none is left for `check`."""

    def check(self, name: str, value: Any) -> None:  # noqa: ANN401 - a value of the kind
        """Refuse a value out of range.

        Raises:
            SpecError: it is.
        """

    def write(self, value: Any) -> str:  # noqa: ANN401 - a value of the kind
        """Return the value as a user would write it, with all its digits."""


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside the range, NaN too.

    Raises:
        SpecError: the value is outside.
    """
    if not low <= value <= high:
        raise SpecError(f"{name} is {_plain(value)}: must be from {_plain(low)} to {_plain(high)}")


def whole_number(text: str) -> int:
    """Read a whole number, also one with zeros behind a point, as data frames write columns that have gaps.

    Raises:
        ValueError: it is none.
    """
    number, point, behind = text.strip().partition(".")
    return int(number if point and behind and not behind.strip("0") else text)


def _plain(value: float) -> str:
    """Return a number as a user would write it."""
    return str(value) if isinstance(value, int) else f"{value:g}"


@dataclass(frozen=True, slots=True)
class Number:
    """A kind of parameter: whole numbers or real ones in a range."""

    python: type[int] | type[float]
    low: float
    high: float
    above: bool = False  # whether `low` itself is outside

    structured = False

    @property
    def extent(self) -> str:
        """Which values there are."""
        low, high = (f"{value:,}" for value in (self.low, self.high))
        return f"above {low} to {high}" if self.above else f"{low} to {high}"

    @property
    def device(self) -> type[int] | type[float] | None:
        """Its type among the device's numbers of a row; None if it is too wide for them."""
        return self.python if self.high < 2**31 else None

    @property
    def metavar(self) -> str:
        """What stands for a value in the help."""
        return "INTEGER" if self.python is int else "FLOAT"

    def read(self, text: str) -> float:
        """Read a value as a user writes it.

        Raises:
            ValueError: it is none of this kind; the message says what is expected.
        """
        try:
            return whole_number(text) if self.python is int else float(text)
        except ValueError as error:
            raise ValueError("a whole number" if self.python is int else "a number") from error

    def from_json(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value, checked with the rest
        """Return a stored value in the kind's own type."""
        return value

    def check(self, name: str, value: float) -> None:
        """Refuse a value out of range, NaN too, and what is no number.

        Raises:
            SpecError: it is.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpecError(f"{name} is {value!r}, and no number")
        if self.above and not self.low < value <= self.high:
            low, high = _plain(self.low), _plain(self.high)
            raise SpecError(f"{name} is {_plain(value)}: must be above {low} and at most {high}")
        check_range(name, value, self.low, self.high)

    def write(self, value: float) -> str:
        """Return the value as a user would write it, with all its digits."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Biases:
    """A kind of parameter: what is added to the scores of some tokens, as pairs of id and bias, by id."""

    metavar = "JSON"
    extent = f"-100 to 100, up to {MOST_BIASES:,} tokens"
    device = None
    structured = True

    def read(self, text: str) -> tuple[tuple[int, float], ...]:
        """Read a JSON object of ids and numbers.

        Raises:
            ValueError: it is none.
        """
        try:
            return self.from_json(json.loads(text))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError('a JSON object of token ids and numbers, such as `{"15": -100}`') from error

    def from_json(self, value: Mapping[str, float] | Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
        """Return pairs for a JSON object, or for the pairs that a spec stores."""
        pairs = value.items() if isinstance(value, Mapping) else value
        return tuple(sorted((int(token), float(bias)) for token, bias in pairs))

    def check(self, name: str, value: Sequence[tuple[int, float]]) -> None:
        """Refuse too many, ids that are none, and biases out of range.

        Raises:
            SpecError: it is so.
        """
        if len(value) > MOST_BIASES:
            raise SpecError(f"{name} has {len(value):,} tokens: at most {MOST_BIASES:,}")
        if len({token for token, _ in value}) != len(value):
            raise SpecError(f"{name} names a token twice")
        for token, bias in value:
            check_range(f"{name}: token", token, 0, 2**31 - 1)
            check_range(f"{name}: the bias of token {token}", bias, -_LARGEST_BIAS, _LARGEST_BIAS)

    def write(self, value: Sequence[tuple[int, float]]) -> str:
        """Return the JSON object."""
        return json.dumps({str(token): bias for token, bias in value})


@dataclass(frozen=True, slots=True)
class Words:
    """A kind of parameter: texts."""

    metavar = "TEXT,…"
    extent = f"up to {MOST_WORDS} texts"
    device = None
    structured = True

    def read(self, text: str) -> tuple[str, ...]:
        """Read texts separated by commas, or a JSON array of them.

        Raises:
            ValueError: it begins as an array and is none.
        """
        if not text.lstrip().startswith("["):
            return tuple(word.strip() for word in text.split(","))
        try:
            return self.from_json(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise ValueError('a JSON array of texts, such as `["one", "two"]`') from error

    def from_json(self, value: Sequence[str]) -> tuple[str, ...]:
        """Return the texts of a JSON array.

        Raises:
            ValueError: it holds something else.
        """
        if isinstance(value, str) or not all(isinstance(word, str) for word in value):
            raise ValueError("they are not texts")
        return tuple(value)

    def check(self, name: str, value: Sequence[str]) -> None:
        """Refuse too many, and empty ones.

        Raises:
            SpecError: it is so.
        """
        if len(value) > MOST_WORDS:
            raise SpecError(f"{name} has {len(value):,} texts: at most {MOST_WORDS}")
        if not all(word.strip() for word in value):
            raise SpecError(f"{name}: a text is empty")

    def write(self, value: Sequence[str]) -> str:
        """Return the JSON array."""
        return json.dumps(list(value), ensure_ascii=False)
