"""The command line before anything is run: help, what it imports, and how errors look."""

import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from endmark.cli.main import COMMANDS, endmark, main
from endmark.jobs.strategies import REGISTRY

pytestmark = pytest.mark.unit

HEAVY = ("torch", "transformers", "celery", "kombu", "sqlalchemy", "rich", "alembic")


def paths(command=endmark, words=()):
    """Every command and sub-command, by its words."""
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from paths(command.get_command(context, name), (*words, name))


@pytest.mark.parametrize("words", list(paths()), ids=" ".join)
def test_every_command_has_help(words, capsys):
    assert main([*words, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: {' '.join(('endmark', *words))}")
    assert err == ""


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "db"])
def test_the_help_of_a_command_has_an_example_and_its_text_in_the_table(name):
    command = endmark.get_command(click.Context(endmark), name)
    assert f"endmark {name}" in command.epilog
    assert command.short_help == COMMANDS[name][1]
    assert all(option.help for option in command.params if isinstance(option, click.Option))


@pytest.mark.parametrize(("words", "allowed"), [(["--help"], ()), (["run", "--help"], ("sqlalchemy",))])
def test_help_imports_nothing_heavy(words, allowed):
    code = (
        "import sys; from endmark.cli.main import main; code = main(sys.argv[2:]);"
        "found = sorted(set(sys.argv[1].split()) & set(sys.modules)); sys.exit(', '.join(found) or code)"
    )
    heavy = " ".join(name for name in HEAVY if name not in allowed)
    done = subprocess.run([sys.executable, "-c", code, heavy, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: endmark" in done.stdout


def test_help_is_quick():
    """At most three times what `import click` takes; the quickest of several turns each."""
    click_alone = [sys.executable, "-c", "import click"]
    whole = [Path(sys.executable).with_name("endmark"), "--help"]
    times = {0: [], 1: []}
    for _ in range(6):
        for index, command in enumerate((click_alone, whole)):
            begin = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times[index].append(time.perf_counter() - begin)
    assert min(times[1]) <= 3 * min(times[0])


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["stats"], "no command `stats`", "did you mean `status`?"),
        (["zzz"], "no command `zzz`", "`endmark --help` lists them"),
        (["run", "--max-tokens", "5"], "no option `--max-tokens`", "it is `--max-new-tokens` here"),
        (["run", "--stop", "x"], "no option `--stop`", "it is `--strategy stop:text=TEXT` here"),
        (["run", "--promt-column", "x"], "no option `--promt-column`", "did you mean `--prompt-column`?"),
        (["submit"], "missing argument `DATASET`", "`endmark submit --help` shows how it is used"),
        (["run", "x.csv"], "missing option `-o` / `--output`", "`endmark run --help` shows how it is used"),
        (["submit", "x", "--top-k", "a"], "invalid value for `--top-k`", "`endmark submit --help`"),
        (["export", "x", "-o", "/nowhere/x.csv"], "there is no folder `/nowhere`", "make it first"),
    ],
)
def test_a_wrong_call_names_the_fix(words, message, hint, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert f"\n\nhint: {hint}" in err


def test_no_arguments_show_the_help(capsys):
    assert main([]) == 2
    assert "Usage: endmark" in capsys.readouterr().err


def test_a_bug_is_one_line_unless_its_traceback_is_wanted(monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "status", ("endmark.cli.main:no_such_command", ""))
    monkeypatch.delenv("ENDMARK_DEBUG", raising=False)
    assert main(["status"]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[0].startswith("error: unexpected AttributeError")
    assert "ENDMARK_DEBUG=1" in err
    assert "Traceback" not in err
    monkeypatch.setenv("ENDMARK_DEBUG", "1")
    with pytest.raises(AttributeError):
        main(["status"])


def test_strategies_lists_each_with_its_parameters(capsys):
    assert main(["strategies"]) == 0
    out = capsys.readouterr().out
    for name, item in REGISTRY.items():
        assert f"{name}  (acts on: {item.place.value})" in out
        assert all(f"{parameter.name}=" in out for parameter in item.declared)
    assert max(map(len, out.splitlines())) <= 115


def test_a_command_that_is_parsed_elsewhere_keeps_its_help():
    """`import endmark` parses options of `submit` too; afterwards its help had lost `-h`."""
    from endmark.cli.options import parsed
    from endmark.cli.submit import submit

    parsed(submit, ["rows"])
    context = click.Context(submit, help_option_names=["-h", "--help"])
    assert "-h, --help" in submit.get_help(context)
