"""What the doctor has found, as a sentence and a table on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from endmark.jobs.sampling import Sampling
from endmark.jobs.spelling import counted

_OTHERS = (("at temperature 0", "greedy"), ("in 16 bits", "sixteen_bits"))


def summary(result: Mapping[str, Any]) -> str:
    """Return how the sample ended, in one sentence."""
    how = Sampling.from_json(result["sampling"]).describe()
    others = f"{result['failed']} failed, " if result["failed"] else ""
    return (
        f"of {counted(result['answers'], 'answer')} {others}{result['truncated']} ran out of "
        f"{counted(result['max_new_tokens'], 'token')} and {result['ended']} ended by the model's own EOS"
        f"{_with_tokens(result['end_tokens'])} ({how})"
    ) + "".join(_ended_so(where, result[key]) for where, key in _OTHERS)


def _ended_so(where: str, found: Mapping[str, Any] | None) -> str:
    """Return how the same prompts ended otherwise, where they were answered so too."""
    return f"; {where}, {found['truncated']} ran out and {found['ended']} ended so" if found is not None else ""


def _with_tokens(found: Sequence[Mapping[str, Any]]) -> str:
    """Return which end tokens were sampled: their counts too where there are several."""
    names = [f"{item['id']} ({item['text']})" if item["text"] else str(item["id"]) for item in found]
    if len(found) < 2:
        return "".join(f", {name}" for name in names)
    return ": " + ", ".join(f"{item['answers']} with {name}" for item, name in zip(found, names, strict=True))


def print_table(result: Mapping[str, Any], console: Console) -> None:
    """Print the findings, causes first."""
    console.print(Text(f"{result['model']}: {summary(result)}", style="bold"))
    if not result["findings"]:
        console.print(Text("Nothing found that would keep this model from stopping."))
        return
    table = Table(show_lines=True)
    table.add_column("finding", ratio=3)
    table.add_column("evidence", ratio=4)
    table.add_column("fix", ratio=4)
    for finding in result["findings"]:
        style = "bold red" if finding["level"] == "cause" else "yellow"
        label = Text.assemble((f"{finding['level']}: {finding['check']}\n", style), finding["title"])
        table.add_row(label, Text(finding["evidence"]), Text(finding["fix"]))
    console.print(table)
    for finding in result["findings"]:
        # Beneath the table and without line breaks, so that a terminal copies them whole.
        console.print(Text.assemble(f"{finding['check']}: ", (finding["command"], "bold")), soft_wrap=True)
