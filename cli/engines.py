"""The options that say which engine runs a model, and over how many GPUs."""

from collections.abc import Callable
from dataclasses import astuple
from typing import Any, TypeVar

import click

from endmark.jobs.engines import ANY_ENGINE, AUTO, ENGINES, EngineChoice

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default=AUTO,
        show_default=True,
        help="Endmark's own, or vLLM's (extra `vllm`); `auto`: vLLM's for what our own cannot run.",
    ),
    click.option(
        "--tensor-parallel",
        type=click.IntRange(1),
        default=1,
        metavar="N",
        help="GPUs that share each layer of one model, under vLLM.  [default: 1]",
    ),
    click.option(
        "--pipeline-parallel",
        type=click.IntRange(1),
        default=1,
        metavar="N",
        help="GPUs that take its layers one after the other, under vLLM.  [default: 1]",
    ),
    click.option(
        "--max-adapters",
        type=click.IntRange(0, 64),
        default=0,
        metavar="N",
        help="Adapters that rows may name in a column `adapter`, N of them at once, under vLLM.  [default: 0]",
    ),
)
NAMES = ("engine", "tensor_parallel", "pipeline_parallel", "max_adapters")


def engine_options(command: Command) -> Command:
    """Give a command the options; `take_engine` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_engine(options: dict[str, Any], *, here: bool = True) -> EngineChoice:
    """Take the engine out of a command's options.

    Args:
        options: of the command, or of a call from Python, which may leave them out; these are removed.
        here: whether this host is to run it, so that it must be installed here.

    Raises:
        UsageError: they do not go together.
        MissingDependency: vLLM is wanted and not installed here.
    """
    usual = zip(NAMES, astuple(ANY_ENGINE), strict=True)
    choice = EngineChoice(*(options.pop(name, default) for name, default in usual))
    if here:
        choice.check(options.get("weights", AUTO))
    return choice
