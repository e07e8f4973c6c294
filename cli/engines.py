"""The options that say which engine runs a model, and over how many GPUs."""

from collections.abc import Callable
from dataclasses import astuple, fields
from typing import Any, TypeVar

import click

from endmark.jobs.engines import ANY_ENGINE, AUTO, ENGINES, EXECUTORS, LOCAL, EngineChoice
from endmark.jobs.launch.gpus import choose_gpus, grouped

Command = TypeVar("Command", bound=Callable[..., Any])


def _number(name: str, numbers: click.IntRange, told: str) -> Callable[[Command], Command]:
    """Return an option whose default is the least of its numbers."""
    usual = numbers.min
    return click.option(
        name, type=numbers, default=usual, metavar="N", help=f"{told}, under vLLM.  [default: {usual}]"
    )


_OPTIONS = (
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default=AUTO,
        show_default=True,
        help="Endmark's own, or vLLM's (extra `vllm`); `auto`: vLLM's for what our own cannot run.",
    ),
    _number("--tensor-parallel", click.IntRange(1), "GPUs that share each layer of one model"),
    _number("--pipeline-parallel", click.IntRange(1), "GPUs that take its layers one after the other"),
    _number(
        "--max-adapters",
        click.IntRange(0, 64),
        "Adapters that rows may name in a column `adapter`, N of them at once",
    ),
    click.option(
        "--executor",
        type=click.Choice(EXECUTORS),
        default=LOCAL,
        show_default=True,
        help="Whose GPUs hold one model under vLLM: this host's, or those of the Ray cluster that it is in.",
    ),
)
NAMES = ("engine", *(item.name for item in fields(EngineChoice)[1:]))


def engine_options(command: Command) -> Command:
    """Give a command the options; `take_engine` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_engine(options: dict[str, Any], *, here: bool = True) -> EngineChoice:
    """Take the engine out of a command's options.

    Args:
        options: of the command, or of a call from Python, which may leave them out; these are removed.
        here: whether this host is to run it, so that it must be installed here and have the GPUs.

    Raises:
        UsageError: they do not go together, or this host has fewer GPUs than they ask for.
        MissingDependency: vLLM is wanted and not installed here.
    """
    usual = zip(NAMES, astuple(ANY_ENGINE), strict=True)
    choice = EngineChoice(*(options.pop(name, default) for name, default in usual))
    choice.check(options.get("weights", AUTO), here=here)
    if here and choice.gpus > 1:
        grouped(choose_gpus(options.get("gpus", "all")), choice)
    return choice
