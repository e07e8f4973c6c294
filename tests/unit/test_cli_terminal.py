"""What reaches the terminal: progress, summaries, and text from data made harmless."""

import io
import re
import sys
from dataclasses import replace
from types import ModuleType

import pytest
from rich.console import Console

from endmark.cli.advice import cut_hint, retry_command, spec_options_of, worker_command
from endmark.cli.failures import report
from endmark.cli.progress import describe, drawn_bar, duration, figures, job_progress, percent, what_it_does
from endmark.cli.status_view import as_json, one_job, table_of_jobs
from endmark.cli.summary import summary
from endmark.cli.terminal import TerminalText, one_line, printable
from endmark.jobs.errors import DatasetError, Interrupted, Problem, StoreError
from endmark.jobs.progress import JobStatus, WorkerInfo
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import JobState

pytestmark = pytest.mark.unit

CONTRACT = (
    "id name state model strategies total pending running succeeded failed cancelled finish_reasons ended_with_eos"
    " truncated prompt_tokens completion_tokens tokens_per_second eta_seconds workers"
).split()
WORKER = WorkerInfo(
    "host:12", "cuda", "demo", None, "expanded", 120.5, heartbeat_age=3.2, shards=2,
    weight_bytes=13_476_839_424, kv_tokens=215_408,
)  # fmt: skip


def status(**changes):
    values = {
        "id": "3f2a91c0",
        "name": "prompts.csv",
        "state": JobState.RUNNING,
        "model": "demo",
        "adapter": None,
        "strategies": ("baseline",),
        "total": 2000,
        "pending": 900,
        "running": 100,
        "succeeded": 996,
        "failed": 4,
        "cancelled": 0,
        "finish_reasons": {"eos": 596, "length": 400, "error": 4},
        "ended_with_eos": 596,
        "truncated": 400,
        "complete": 596,
        "prompt_tokens": 10_000,
        "completion_tokens": 100_000,
        "tokens_per_second": 1234.5,
        "eta_seconds": 75.0,
        "workers": (WORKER,),
    }
    return JobStatus(**{**values, **changes})


def test_control_characters_become_escapes():
    assert printable("a\x1b[31mb\x07\x9b\u202e\r") == "a\\x1b[31mb\\x07\\x9b\\u202e\\r"
    assert printable("é 😀\tx\n漢\u200d") == "é 😀\tx\n漢\u200d"
    assert printable("\udc80") == "\\udc80"


def test_one_line():
    assert one_line("a\n b\x1b  c") == "a b\\x1b c"
    assert one_line("abcdef", 4) == "abc…"


def test_standard_output_on_a_terminal_is_harmless():
    screen = io.StringIO()
    TerminalText(screen).write('1,"a\x1b]0;title\x07"\r\n')
    assert screen.getvalue() == '1,"a\\x1b]0;title\\x07"\n'


def test_progress_in_one_line():
    assert describe(status()) == "1,000/2,000 rows, 1:15 left, 4 failed, 1,234 tokens/s"
    fresh = status(succeeded=0, failed=0, eta_seconds=None)
    assert describe(fresh) == "0/2,000 rows"
    assert (percent(1, 3), percent(0, 0)) == ("33 %", "–")
    assert (duration(9.6), duration(3661)) == ("0:10", "1:01:01")


def test_a_program_that_has_imported_a_kernel_is_no_notebook(capsys, monkeypatch):
    """A `run` beside `import ipykernel` ended in an AttributeError: there is no cell to draw in."""
    import IPython

    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert IPython.get_ipython() is None
    with job_progress() as show:
        show(status(state=JobState.COMPLETED), "running")
    assert "running: 1,000/2,000 rows" in capsys.readouterr().err


def test_how_answers_ended_is_told_when_all_have():
    """ "EOS 100 %, truncated 0 %" stood until half of the rows were done: the long ones end last."""
    for text in (describe(status()), table_of_jobs([status()]).splitlines()[1]):
        assert "%" not in text
    ended = status(state=JobState.COMPLETED, succeeded=1000, failed=0, total=1000, eta_seconds=None)
    assert describe(ended) == "1,000/1,000 rows, 1,234 tokens/s, complete 60 %, EOS 60 %, truncated 40 %"
    assert "60 % 60 % 40 %" in " ".join(table_of_jobs([ended]).splitlines()[1].split())


def test_a_share_is_none_or_all_only_where_it_is():
    """One cut answer of 20,000 was "truncated 0 %", beside "complete 100 %"."""
    shown = [percent(part, 20_000) for part in (0, 1, 150, 10_000, 19_999, 20_000)]
    assert shown == ["0 %", "<1 %", "1 %", "50 %", ">99 %", "100 %"]
    assert percent(0, 0) == "–"


def test_a_job_whose_worker_is_silent_shows_no_speed():
    """ "458 tokens/s, 0:07 left" stood for 75 s after the worker had died."""
    silent = status(silent_seconds=42.4)
    assert what_it_does(silent) == "waiting for a worker that is silent for 42 s"
    assert describe(silent) == "1,000/2,000 rows, 4 failed"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
@pytest.mark.parametrize("doing", ["running", "waiting for the worker of another `endmark run`"])
def test_the_bar_stays_one_line_on_a_narrow_terminal(width, doing):
    """At 40 columns its figures had taken three lines, which no redrawing took away again."""
    screen = io.StringIO()
    console = Console(file=screen, width=width, force_terminal=True, color_system=None)
    with drawn_bar(console) as draw:
        draw(doing, 1000, 2000, figures(status()))
    lines = [
        line for line in re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "\n", screen.getvalue()).splitlines() if line.strip()
    ]
    assert lines
    assert max(map(len, lines)) <= width
    if width >= 40:
        assert "1,000/2,000 rows" in lines[-1]
    assert ("1,234 tokens/s" in lines[-1]) == (width == 120 or (width == 80 and doing == "running"))


def test_what_a_job_does():
    assert what_it_does(status()) == "running"
    assert what_it_does(status(workers=())) == "waiting for a worker"
    assert what_it_does(status(state=JobState.QUEUED, running=0, succeeded=0, failed=0)) == "queued"
    assert what_it_does(status(state=JobState.COMPLETED_WITH_ERRORS)) == "completed with errors"


def test_names_cannot_control_the_table():
    text = table_of_jobs([status(name="a\x1b[2J\nb"), status(name="plain")])
    heading, first, second = text.splitlines()
    assert "\x1b" not in text
    assert "a\\x1b[2J b" in first
    assert heading.index("STATE") == first.index("running") == second.index("running")


def test_one_job_lists_its_workers_while_it_runs():
    text = one_job(status(adapter="/adapters/a"))
    assert "596" in text
    assert "/adapters/a" in text
    assert "host:12" in text
    assert "3 s ago" in text
    assert "expanded, 13.5 GB  215,408 tokens  12" in text
    assert "host:12" not in one_job(status(state=JobState.COMPLETED))


def test_a_job_names_the_engine_of_each_of_its_workers():
    """A job names none: its rows are of a model, whichever engine holds it."""
    found = status(workers=(WORKER, replace(WORKER, worker="other:7", engine="vllm", weights="nf4")))
    lines = one_job(found).splitlines()
    heading = next(line for line in lines if "ENGINE" in line.upper() and "WORKER" in line.upper())
    place = heading.upper().index("ENGINE")
    assert [line[place:].split()[0] for line in lines if "host:12" in line or "other:7" in line] == [
        "endmark",
        "vllm",
    ]
    assert [worker["engine"] for worker in as_json(found)["workers"]] == ["endmark", "vllm"]


def test_the_json_has_what_the_contract_names():
    values = as_json(status())
    assert set(CONTRACT) <= set(values)
    assert values["workers"][0]["worker"] == "host:12"
    assert values["finish_reasons"] == {"eos": 596, "length": 400, "error": 4}


def test_the_summary():
    lines = summary(status(), "out.csv").splitlines()
    assert [line.split("  ")[0] for line in lines][:4] == ["rows", "complete", "truncated", "failed"]
    assert "596 (60 %)" in lines[1]
    assert "400 (40 %)" in lines[2]
    assert "eos 596, length 400, error 4" in lines[4]
    assert lines[-1].endswith("`out.csv`")


def test_the_summary_says_why_rows_failed():
    """Every row of a job had failed for one reason, and the summary gave none."""
    lines = summary(status(), "out.csv", ("the template refuses\nthe row", 4)).splitlines()
    assert lines[4] == "because         the template refuses the row (4 rows)"
    assert "mostly because  too long (1 row)" in summary(status(), "out.csv", ("too long", 1))
    assert "because" not in summary(status(), "out.csv")


def test_commands_are_quoted_for_the_shell():
    assert worker_command("demo", None) == "endmark worker"
    assert worker_command("/my models/a", "/b") == "endmark worker --model '/my models/a' --adapter /b"


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ("baseline", "--strategy whole"),
        ('concise;stop:text="a b"', "--strategy 'concise;stop:text=a b;whole'"),
        ("whole:firm=0.9", "--max-new-tokens 80"),
        ("no-loops;escalate", "--max-new-tokens 80"),
    ],
)
def test_what_is_advised_for_answers_that_were_cut(before, change):
    """A run whose answers were all cut once ended with that figure and not a word of what to do about it."""
    spec = GenerationSpec(model="m", max_new_tokens=40, strategies=build_strategies([before]))
    assert retry_command("3f2a", spec) == f"endmark retry 3f2a --truncated {change}"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            DatasetError([Problem("x\x1b.csv", 3, "bad")], 2, hint="mend"),
            2,
            "error: x\\x1b.csv:3: bad\n… and 1 more\n\nhint: mend\n",
        ),
        (Interrupted("job x is paused", hint="resume"), 130, "interrupted: job x is paused\n\nhint: resume\n"),
        (
            StoreError("the database is full", hint="free some"),
            1,
            "error: the database is full\n\nhint: free some\n",
        ),
        (KeyError("x"), 1, "error: unexpected KeyError: 'x'\n\nhint: set ENDMARK_DEBUG=1"),
    ],
)
def test_errors_as_text(error, code, text, capsys):
    assert report(error) == code
    assert capsys.readouterr().err.startswith(text)


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ("baseline", "think:budget=80"),
        ("think:budget=100,strict=no;whole", "'think:budget=200,strict=false;whole'"),
        ("concise", "'think:budget=80;concise'"),
    ],
)
def test_what_is_advised_for_rows_that_ended_inside_their_thought(before, change):
    spec = GenerationSpec(model="m", max_new_tokens=40, strategies=build_strategies([before]))
    assert retry_command("3f2a", spec, in_thought=True) == f"endmark retry 3f2a --truncated --strategy {change}"


def test_a_command_that_asks_again_has_what_the_template_was_given():
    spec = GenerationSpec(model="m", template_args={"enable_thinking": False}, thinking_marks="<a>,</a>")
    words = spec_options_of(spec)
    assert "--template-arg enable_thinking=false" in words
    assert "--thinking-marks '<a>,</a>'" in words


@pytest.mark.parametrize("room", [40, 60, 80])
def test_a_narrow_terminal_has_fewer_columns(room):
    """Lines of 90 characters were broken, and cut in `status --watch`."""
    wide = table_of_jobs([status()])
    text = table_of_jobs([status()], room)
    heading, line = text.splitlines()
    assert max(map(len, (heading, line))) <= room < len(wide.splitlines()[0])
    assert {"JOB", "STATE", "ROWS"} <= set(heading.split()) < set(wide.splitlines()[0].split())
    assert table_of_jobs([status()], len(wide)) == wide


def test_answers_that_are_complete_need_no_retry():
    """Where `whole` had ended each cut answer at a sentence, a retry with twice the budget was advised."""
    spec = GenerationSpec(model="demo")
    assert cut_hint(status(), spec).startswith("`endmark retry 3f2a91c0 --truncated --strategy whole` retries")
    assert cut_hint(status(complete=996), spec) is None
    assert cut_hint(status(truncated=0), spec) is None
    assert "2 rows ended inside the thought" in cut_hint(status(complete=996, ended_in_reasoning=2), spec)
