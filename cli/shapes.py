"""The options of shapes, and the shape that they stand for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from endmark.jobs.errors import SpecError
from endmark.jobs.shapes import Shape, ShapeKind, read_shape

_HELP = {
    ShapeKind.JSON_SCHEMA: ("FILE", "Keep each answer to a JSON schema: a file, or the schema itself."),
    ShapeKind.REGEX: ("REGEX", "Keep each answer to a regular expression, which it matches as a whole."),
    ShapeKind.CHOICES: ("A,B,…", "Let each answer be one of some labels, by commas or as a JSON array."),
    ShapeKind.GRAMMAR: ("FILE", "Keep each answer to a grammar as Lark has them: a file, or the grammar itself."),
}

SHAPE_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(kind.option, kind.value, metavar=metavar, help=text) for kind, (metavar, text) in _HELP.items()
]


def chosen_shape(options: Mapping[str, Any]) -> Shape | None:
    """Return the shape of a job's answers; None if they have none.

    Args:
        options: values by the names of the kinds; None where the user gave none.

    Raises:
        SpecError: there are several, or answers cannot be kept to the one.
        MissingDependency: the extra `shapes` is not installed.
    """
    given = {kind: options[kind.value] for kind in ShapeKind if options.get(kind.value) is not None}
    if len(given) > 1:
        named = " and ".join(f"`{kind.option}`" for kind in given)
        raise SpecError(f"{named} exclude each other", hint="an answer has one shape")
    for kind, text in given.items():
        return read_shape(kind, _content(kind, text), f"`{kind.option}`")
    return None


def _content(kind: ShapeKind, text: str) -> str:
    """Return what a schema's or a grammar's file holds; what is no name of a file stands for itself.

    Raises:
        SpecError: the file cannot be read.
    """
    if kind not in (ShapeKind.JSON_SCHEMA, ShapeKind.GRAMMAR):
        return text
    if text.lstrip().startswith("{") or (kind is ShapeKind.GRAMMAR and ":" in text):
        return text
    try:
        return Path(text).expanduser().read_text(encoding="utf-8")
    except FileNotFoundError as error:
        what = (
            "JSON, or a file that holds it"
            if kind is ShapeKind.JSON_SCHEMA
            else "rules, or a file that holds them"
        )
        raise SpecError(f"`{kind.option}`: there is no file `{text}`", hint=f"give {what}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SpecError(f"`{kind.option}`: `{text}` cannot be read: {reason}") from error
