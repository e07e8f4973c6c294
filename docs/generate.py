"""Write the parts of the docs that the code already says: the map of all files, and every command's help.

`python docs/generate.py` rewrites them; a test checks that they are as written.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import click

from endmark.cli.main import endmark
from endmark.jobs.generation_config import FILE
from endmark.jobs.sampling import TABLE

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("jobs", "db", "worker", "cli", "client", "benchmarks", "docs")
_WIDTH = 24  # of the names
_HEAD = "| name | value | range | what it does | also set by |\n| --- | --- | --- | --- | --- |\n"


def tree() -> str:
    """Return every module with the first sentence of its docstring, a line each, under its folder."""
    lines: list[str] = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py"), key=_order):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            first = docstring.partition("\n")[0]
            inside = str(path.parent.relative_to(ROOT)) + "/"
            if path.name == "__init__.py":
                lines.append(f"{inside:<{_WIDTH}} {first}".rstrip())
                continue
            if not lines or _folder_of(lines) != inside:
                lines.append(inside)
            lines.append(f"  {path.name:<{_WIDTH - 2}} {first}".rstrip())
    return "\n".join(lines) + "\n"


def _folder_of(lines: list[str]) -> str:
    """Return the folder that the last line stands in."""
    return next(line for line in reversed(lines) if not line.startswith(" ")).split()[0]


def _order(path: Path) -> tuple[str, bool, str]:
    """Sort a folder's own docstring before its files, and its files before its folders' ones."""
    return str(path.parent), path.name != "__init__.py", path.name


def map_page() -> str:
    """Return the page of all files."""
    return (
        "# Where things are\n\nMade by `python docs/generate.py` from the modules' docstrings. `tests/`\n"
        f"mirrors the rooms in four tiers: `unit`, `engine`, `integration` and `gpu`.\n\n```\n{tree()}```\n"
    )


def command_pages() -> str:
    """Return the page of all commands' help."""
    pages = [f"## {' '.join(words)}\n\n```\n{text}\n```\n" for words, text in _help_of(endmark, ("endmark",))]
    return "# Commands\n\nMade by `python docs/generate.py` from `endmark COMMAND --help`.\n\n" + "\n".join(pages)


def _help_of(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield a command's words and help, then those of its sub-commands."""
    with click.Context(command, info_name=" ".join(words), terminal_width=100, max_content_width=100) as context:
        context.help_option_names = ["-h", "--help"]
        text = command.get_help(context)
        yield words, "\n".join(line.rstrip() for line in text.splitlines())
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from _help_of(found, (*words, name))


def sampling_page() -> str:
    """Return the page of sampling, its table anew."""
    written = (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8")
    lines = []
    for item in TABLE:
        form = item.kind.metavar.replace("|", "\\|")
        others = [name for name, has in (("batch files", item.openai), (FILE, item.generation_config)) if has]
        lines.append(f"| `{item.name}` | {form} | {item.kind.extent} | {item.help} | {', '.join(others)} |")
    return written.partition(_HEAD)[0] + _HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "map.md").write_text(map_page(), encoding="utf-8")
    (ROOT / "docs" / "commands.md").write_text(command_pages(), encoding="utf-8")
    (ROOT / "docs" / "sampling.md").write_text(sampling_page(), encoding="utf-8")
