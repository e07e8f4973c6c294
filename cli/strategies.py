"""`endmark strategies`: every strategy, its parameters and defaults, and one line of why."""

import textwrap

import click

from endmark.cli.terminal import note
from endmark.jobs.strategies import REGISTRY, Strategy
from endmark.jobs.strategies.base import Value

_WIDTH = 100


@click.command(
    short_help="List the strategies with their parameters.",
    epilog="\b\nExamples:\n  endmark strategies\n  endmark run prompts.csv -o out.csv --strategy stop:text=END",
)
def strategies() -> None:
    """List every strategy: where it acts, what it does, when to choose it, and its parameters with their defaults.

    Strategies combine: repeat `--strategy`. At most one of them may act on the scores.
    """
    click.echo("\n\n".join(_described(item) for item in REGISTRY.values()))
    for name, reason in REGISTRY.broken.items():
        note(f"strategy `{name}` cannot be used: {reason}")


def _described(item: type[Strategy]) -> str:
    """Return the text about one strategy."""
    lines = [f"{item.name}  (acts on: {item.place.value})", *_indented(item.summary), *_indented(item.why)]
    names = [f"{parameter.name}={_default(parameter.default)}" for parameter in item.declared]
    width = max(map(len, names), default=0)
    for name, parameter in zip(names, item.declared, strict=True):
        lines += _indented(f"{name:<{width}}  {parameter.help}", hanging=width + 2)
    return "\n".join(lines)


def _default(value: Value) -> str:
    """Return a parameter's default as it would be written."""
    if isinstance(value, tuple):
        return "|".join(value) or "…"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() or "…"


def _indented(text: str, hanging: int = 0) -> list[str]:
    """Return the text as indented lines."""
    return textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent=" " * (4 + hanging))
