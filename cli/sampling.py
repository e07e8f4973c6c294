"""The options of sampling, made from its table, and the sampling that they and the model's own files stand for."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from endmark.cli.terminal import note
from endmark.jobs.generation_config import own_sampling, passed_over, read_generation_config
from endmark.jobs.hub import cached_folder, local_folder
from endmark.jobs.sampling import TABLE, Parameter, Sampling, written

Command = TypeVar("Command", bound=Callable[..., Any])


class _Value(click.ParamType[Any]):
    """A value of a parameter."""

    def __init__(self, parameter: Parameter) -> None:
        self.name = parameter.kind.metavar
        self._parameter = parameter

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Read the value; whether it is in range is checked with the spec."""
        try:
            return self._parameter.kind.read(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(f"`{value}` is not {error}", param, ctx)


def _help_of(item: Parameter) -> str:
    """Return the help of an option, with where its default comes from."""
    default = "as the model's generation_config" if item.generation_config else item.kind.write(item.default)
    return f"{item.help}  [default: {default}]"


SAMPLING_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(item.option, item.name, type=_Value(item), help=_help_of(item)) for item in TABLE
]


def sampling_options(command: Command) -> Command:
    """Give a command the options of sampling."""
    for option in reversed(SAMPLING_OPTIONS):
        command = option(command)
    return command


def chosen_sampling(model: str, options: Mapping[str, Any]) -> Sampling:
    """Return the sampling of a job: what the options give, else as the model's own generation_config says.

    What is taken from there is told on standard error; a model without one is greedy. So is one whose files are on
    other machines alone, which is told too.

    Args:
        model: as jobs call it.
        options: values by the names of the table; None where the user gave none.

    Raises:
        SpecError: a value is out of range.
    """
    given = {item.name: value for item in TABLE if (value := options.get(item.name)) is not None}
    folder = local_folder(model) or cached_folder(model)
    config = read_generation_config(folder) if folder is not None else {}
    own = own_sampling(config, given)
    if folder is None and "temperature" not in given:
        note(
            "the model's files are not on this machine, nor is its generation_config: greedy; see `--temperature`"
        )
    if own:
        note(f"sampling as the model's generation_config: {written(own)}")
    if others := passed_over(config):
        note(f"the model's generation_config sets what Endmark does not do: `{'`, `'.join(others)}`")
    return Sampling(**{**own, **given})
