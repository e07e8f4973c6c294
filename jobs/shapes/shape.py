"""A shape as a value: its kind and its text, read from options, from cells and from stored specs."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from endmark.jobs.errors import SpecError
from endmark.jobs.spelling import counted

MOST_CHARACTERS = 1_000_000  # of one shape
MOST_CHOICES = 10_000


class ShapeKind(StrEnum):
    """The kinds of shapes; each is the name of its column, and of its option with dashes."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICES = "choices"
    GRAMMAR = "grammar"

    @property
    def option(self) -> str:
        """Its option on the command line."""
        return "--" + self.value.replace("_", "-")


SHAPE_COLUMNS = tuple(kind.value for kind in ShapeKind)


@dataclass(frozen=True, slots=True)
class Shape:
    """What an answer may be. Two shapes of equal text are one and are compiled once."""

    kind: ShapeKind
    text: str  # a JSON schema, a regular expression, a JSON array of labels, or a Lark grammar

    @property
    def choices(self) -> tuple[str, ...]:
        """The labels of a shape of choices."""
        return tuple(json.loads(self.text))

    def to_json(self) -> dict[str, str]:
        """Return the shape as a spec holds it."""
        return {"kind": self.kind.value, "text": self.text}

    @classmethod
    def from_json(cls, value: Any) -> "Shape":  # noqa: ANN401 - any JSON value
        """Return a stored shape.

        Raises:
            SpecError: it is none that this program knows.
        """
        try:
            return cls(ShapeKind(value["kind"]), str(value["text"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"this program does not know the shape {json.dumps(value)}") from error


def read_shape(kind: ShapeKind, text: str, where: str) -> Shape:
    """Return the shape that a text stands for, once it is known that answers can be kept to it.

    Args:
        kind: of the shape.
        text: as a user writes it; of `choices` a JSON array, or labels separated by commas.
        where: the option or the column, for messages.

    Raises:
        SpecError: it is none, or holds what cannot be kept; the message names the place.
        MissingDependency: the extra `shapes` is not installed.
    """
    from endmark.jobs.shapes.grammar import check_shape  # with the extra, which only shapes need

    if len(text) > MOST_CHARACTERS:
        raise SpecError(f"{where}: {len(text):,} characters are too many: at most {MOST_CHARACTERS:,}")
    if kind is ShapeKind.CHOICES:
        text = json.dumps(_labels(text, where), ensure_ascii=False)
    elif not text.strip():
        raise SpecError(f"{where} is empty")
    shape = Shape(kind, text)
    check_shape(shape, where)
    return shape


def _labels(text: str, where: str) -> list[str]:
    """Return the labels that a text lists.

    Raises:
        SpecError: there are none, too many, or one is empty or stands twice.
    """
    if text.lstrip().startswith("["):
        try:
            labels = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"{where} is not a JSON array of labels: {error}") from error
    else:
        labels = [label.strip() for label in text.split(",")]
    if not all(isinstance(label, str) and label for label in labels):
        raise SpecError(f"{where}: a label is empty, or no text", hint="write `yes,no`, or a JSON array of texts")
    twice = sorted({label for label in labels if labels.count(label) > 1}) if len(labels) < 100 else []
    if twice or len(set(labels)) < len(labels):
        raise SpecError(f"{where}: a label stands twice" + (f": `{twice[0]}`" if twice else ""))
    if not 2 <= len(labels) <= MOST_CHOICES:
        raise SpecError(f"{where} has {counted(len(labels), 'label')}: must be from 2 to {MOST_CHOICES:,}")
    return list(labels)
