"""The ends of a command: streams that are closed or full, words that are no text, messages of any length."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from endmark.cli.failures import report
from endmark.cli.submission import dataset_name
from endmark.cli.terminal import brief
from endmark.jobs.datasets.notes import Notes
from endmark.jobs.errors import SpecError
from endmark.jobs.prompts import find_prompt_column
from endmark.jobs.spec import GenerationSpec

pytestmark = pytest.mark.unit
ENDMARK = Path(sys.executable).with_name("endmark")


@pytest.fixture
def shell(tmp_path):
    """Run a line of `sh` in which `endmark` is the command, over a home of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ENDMARK_")}
    environment |= {"ENDMARK_HOME": str(tmp_path / "home"), "E": str(ENDMARK)}

    def run(line, **more):
        return subprocess.run(
            ["sh", "-c", line], env=environment | more, cwd=tmp_path, capture_output=True, timeout=60, check=False
        )

    return run


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_command_runs_where_a_stream_is_closed(shell, closed):
    """`endmark status >&-` ended in an AttributeError of `None`, told as a bug of ours."""
    done = shell(f'"$E" status {closed}')
    assert done.returncode == 0, done.stderr
    assert b"unexpected" not in done.stderr
    files = {item.name for item in (Path(shell("pwd").stdout.decode().strip()) / "home").iterdir()}
    assert "endmark.db" in files  # and not the stream that was lacking


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_full_place_is_no_bug_of_ours(shell):
    done = shell('"$E" strategies > /dev/full')
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: cannot write: No space left on device\n\nhint: make room")


def test_a_file_that_cannot_be_written_is_named(capfd):
    assert report(OSError(errno.EROFS, os.strerror(errno.EROFS), "/x/y")) == 1
    assert capfd.readouterr().err.startswith("error: cannot write `/x/y`: Read-only file system\n")
    assert report(OSError(errno.EBADF, "Bad file descriptor")) == 1
    assert "unexpected OSError" in capfd.readouterr().err


@pytest.mark.parametrize("words", ['--system "$X"', '--name "$X"', '--strategy "stop:text=$X"'])
def test_words_that_are_no_text_are_refused(shell, tmp_path, words):
    (tmp_path / "x.csv").write_text("prompt\nHi\n")
    done = shell(f"X=$(printf '\\377'); \"$E\" submit x.csv --model demo {words}")
    assert done.returncode == 2, done.stderr
    assert b"a word of the command is no UTF-8 text: `" in done.stderr
    assert shell('"$E" status --json').stdout.strip() == b"[]"


def test_the_name_of_a_file_may_be_any_bytes(shell, tmp_path):
    """Its rows were refused with a UnicodeEncodeError, as the job could not be called like it."""
    (tmp_path / os.fsdecode(b"\xff.csv")).write_text("prompt\nHi\n")
    done = shell('"$E" submit --model demo "$(printf \'\\377\').csv"')
    assert done.returncode == 0, done.stderr
    assert dataset_name(os.fsdecode(b"a/\xff\xc3\xa9.csv")) == "\ufffd\u00e9.csv"


def test_endless_words_are_cut_and_others_are_not():
    """A message showed an id of 10,000 characters whole, and what it said scrolled away."""
    path = "/some/folder" * 20
    assert brief(f"cannot read `{path}`: no such file") == f"cannot read `{path}`: no such file"
    told = brief(f"column `id`: `{'x' * 10_000}` stands there")
    assert len(told) < 300
    assert told.startswith("column `id`: `xxx")
    assert told.endswith("x` stands there")


def test_a_table_of_many_columns_is_not_listed_whole():
    columns = [f"c{number}" for number in range(5000)]
    with pytest.raises(SpecError, match="`c19`, and 4,980 more") as caught:
        find_prompt_column(columns, GenerationSpec())
    assert "c20" not in str(caught.value)
    with pytest.raises(SpecError, match=r"there are `c0`, `c1`$"):
        find_prompt_column(columns[:2], GenerationSpec())


def test_notes_of_ever_other_values_are_counted():
    notes = Notes()
    for line in range(1, 5001):
        notes.add(f"not `{line}`", line)
    notes.add("not `1`", 7)
    told = notes.texts()
    assert told[0] == "not `1` (2 rows, first in line 1)"
    assert (len(told), told[-1]) == (21, "… and 4,980 notes more, of other values")
