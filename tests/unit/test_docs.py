"""The docs tell the truth: their commands, options, files and functions exist; what is generated is up to date."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from endmark.cli.main import endmark
from endmark.jobs.strategies import build_strategies

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:^|[\s`(=])(?:\.venv/bin/)?endmark ((?:[^`\n#;&|$)\"']|\"[^\"`\n]*\"|'[^'`\n]*')+)")
PLACEHOLDER = re.compile(r"[A-Z_…]+$")
GENERATE = ROOT / "docs" / "generate.py"


def commands(page):
    """The words of every `endmark …` in code of a page."""
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```[a-z]*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    code += [" ".join(inline.split()) for inline in re.findall(r"`([^`]+)`", prose)]
    tree = re.compile(r"^ *\w+(?:\.py|/) ", re.MULTILINE)
    for block in code:
        if tree.search(block):
            continue
        for found in COMMAND.findall(block.replace("\\\n", " ")):
            yield shlex.split(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page):
    for words in commands(page):
        if words[0].startswith(("-", "[")) or PLACEHOLDER.match(words[0]):
            continue
        command, context = endmark, click.Context(endmark)
        while isinstance(command, click.Group):
            name = words.pop(0)
            command = command.get_command(context, name)
            assert command is not None, f"`endmark {name}`"
            if not words or words[0].startswith("["):
                break
        known = {name for item in command.params for name in item.opts} | {"--help"}
        for index, word in enumerate(words):
            option = word.partition("=")[0]
            if option.startswith("-") and option != "-":
                assert option in known, f"`endmark {command.name} {option}`"
            if word == "--strategy" and not PLACEHOLDER.match(words[index + 1]) and "…" not in words[index + 1]:
                build_strategies([words[index + 1]])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_function_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(
        r"`(?:python )?((?:benchmarks|docs|jobs|db|worker|cli|examples|tests)/[\w./]*\w)", text
    ):
        assert (ROOT / path).exists(), path
    for name, target in re.findall(r"\[`([\w.]+)`\]\(([\w./]+\.py)\)", text):
        nodes = ast.parse((page.parent / target).read_text(encoding="utf-8")).body
        for part in name.split("."):
            found = [node for node in nodes if getattr(node, "name", None) == part]
            assert found, f"`{name}` in {target}"
            nodes = found[0].body


def test_every_command_is_in_the_docs():
    used = {words[0] for page in PAGES for words in commands(page) if words}
    assert not set(endmark.list_commands(click.Context(endmark))) - used


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.fixture(scope="module")
def generate():
    module = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("generate", GENERATE))
    spec.loader.exec_module(module)
    return module


def test_the_file_tree_is_as_the_docstrings_say(generate):
    """`make docs` writes it."""
    assert (ROOT / "docs" / "map.md").read_text(encoding="utf-8") == generate.map_page()
    assert [line for line in generate.tree().splitlines() if re.fullmatch(r" *\w+\.py", line)] == []


def test_the_table_of_sampling_is_in_the_docs(generate):
    """`make docs` writes it."""
    assert (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8") == generate.sampling_page()


def test_the_help_of_every_command_is_in_the_docs(generate):
    """`make docs` writes it."""
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == generate.command_pages()
