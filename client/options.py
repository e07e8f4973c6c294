"""Keyword arguments as the command line's options: one set of names, defaults and errors for both."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from endmark.cli.failures import plain
from endmark.cli.options import build_spec, parsed
from endmark.cli.submit import submit
from endmark.jobs.errors import EndmarkError, UsageError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import nearest

_FOR_FILES = ("format", "delimiter", "skip_bad_rows")  # options that say how a file is read


_OPTION = re.compile(r"`--([a-z][a-z-]*)(?: [A-Z]+)?`")


@contextmanager
def in_python() -> Iterator[None]:
    """Say errors as a Python program has them: arguments by name, not options of the command line."""
    try:
        yield
    except EndmarkError as error:
        error.args = (_as_arguments(str(error)),)
        error.hint = _as_arguments(error.hint) if error.hint else None
        raise


def _as_arguments(text: str) -> str:
    """Return a text with `prompt_column` where it has `--prompt-column`."""
    return _OPTION.sub(lambda match: "`" + match[1].replace("-", "_") + "`", text)


def parse_options(given: Mapping[str, Any], *, files: bool = True) -> tuple[GenerationSpec, dict[str, Any]]:
    """Return the spec that keyword arguments stand for, and the values of all options of `endmark submit`.

    Args:
        given: named as the options are, `max_new_tokens=100` for `--max-new-tokens 100`. A list repeats an option,
            a mapping gives one of the form `KEY=JSON` for each of its items.
        files: whether options that say how a file is read make sense.

    Raises:
        TypeError: there is no such option.
        UsageError: a value is wrong.
    """
    options = {name: item for item in submit.params if isinstance(item, click.Option) for name in _names(item)}
    words: list[str] = []
    for name, value in given.items():
        option = options.get(name)
        if option is None:
            near = nearest(name, options, "`endmark submit --help` lists the options")
            raise TypeError(f"there is no option `{name}`; {near}")
        if not files and name in _FOR_FILES:
            raise UsageError(f"`{name}` is for files", hint="rows are handed over as they are to be run")
        words += _words(option, value)
    try:
        values = parsed(submit, [*words, "--", "rows"])
    except click.UsageError as error:
        raise UsageError(plain(error)) from error
    return build_spec(values), values


def _names(option: click.Option) -> set[str]:
    """Return what an option may be called: as on the command line, and as its value is."""
    long = max(option.opts, key=len).lstrip("-").replace("-", "_")
    return {long, option.name or long}


def _words(option: click.Option, value: Any) -> list[str]:  # noqa: ANN401
    """Return an option with its value as a command line has it."""
    flag = max(option.opts, key=len)
    if option.is_flag:
        return [flag] if value else []
    if value is None:
        return []
    if option.multiple and isinstance(value, Mapping):
        value = [f"{name}={json.dumps(item, ensure_ascii=False)}" for name, item in value.items()]
    values = value if option.multiple and not isinstance(value, str) else [value]
    return [word for item in values for word in (flag, _text(item))]


def _text(value: Any) -> str:  # noqa: ANN401
    """Return a value as it is written behind an option."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
