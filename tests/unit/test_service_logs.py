"""What a worker logs can neither garble a terminal nor forge a line."""

import logging
import sys

import pytest

from endmark.worker.process.logs import OneLine, printable

pytestmark = pytest.mark.unit


def line_of(message, *arguments, name="worker", exc_info=None):
    record = logging.LogRecord(name, logging.WARNING, __file__, 1, message, arguments, exc_info)
    return OneLine("worker:7").format(record)


def test_a_record_is_one_line_with_the_workers_name():
    line = line_of("job %s shard %d: done", "j", 3)
    assert line.endswith(" worker:7 WARNING job j shard 3: done")
    assert "\n" not in line_of("a\nb\r\nc")


@pytest.mark.parametrize("bad", ["\x1b[31m", "\x07", "\x9b2J", "\u202e", "\u2028", "\x00", "\ud800"])
def test_control_characters_are_written_as_escapes(bad):
    text = printable(f"a{bad}b")
    assert text.startswith("a\\")
    assert text.encode().decode().isprintable()


def test_plain_text_of_any_script_stays_as_it_is():
    assert printable("Größe 東京 😀 50 %") == "Größe 東京 😀 50 %"


def test_long_lines_are_cut():
    assert len(printable("x" * 10_000_000)) < 4100
    assert len(line_of("%s", "x" * 10_000_000, name="celery.worker")) < 700


def test_a_traceback_is_indented_and_clean_and_a_librarys_is_left_out():
    try:
        raise ValueError("a\x1b[31m\nforged line")
    except ValueError:
        info = sys.exc_info()
    lines = line_of("broke", exc_info=info).splitlines()
    assert all(line.startswith("    ") for line in lines[1:])
    assert "\x1b" not in "".join(lines)
    assert len(line_of("broke", exc_info=info, name="celery.app.trace").splitlines()) == 1
