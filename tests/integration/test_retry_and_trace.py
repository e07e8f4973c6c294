"""A job whose answers were cut, asked again; and its trace, from the option to the doctor's page."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from endmark.cli import main, retry
from endmark.cli.again import ask_again
from endmark.db.connection import open_store
from tests.integration.service_fixtures import jobs_until, submit
from tests.integration.store.ledger import answer_all, take

pytestmark = pytest.mark.integration

ENDMARK = Path(sys.executable).with_name("endmark")
PROMPTS = ["What can I do in Paris?", "Tell me about Lisbon.", "How can I sleep better?", "x" * 6000]
SHORT = 12  # tokens, too few for any answer


@pytest.fixture
def endmark(tmp_path):
    """Run a command in a home of its own; return standard output and standard error."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ENDMARK_")}
    options = {"env": {**environment, "ENDMARK_HOME": str(tmp_path / "home")}, "cwd": tmp_path}

    def call(*words, code=0):
        done = subprocess.run(
            [ENDMARK, *map(str, words)], capture_output=True, text=True, timeout=200, check=False, **options
        )
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    call.options = options
    return call


def results(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def work_until_done(endmark, home):
    """Let a worker run until the newest job has ended; return its status."""
    worker = subprocess.Popen([ENDMARK, "worker"], stderr=subprocess.DEVNULL, **endmark.options)
    try:
        jobs_until(home / "endmark.db", lambda jobs: jobs[0].state.is_final)
        assert worker.poll() is None
        return json.loads(endmark("status", "latest", "--json")[0])
    finally:
        worker.terminate()
        worker.wait(60)


def test_rows_that_a_worker_has_taken_at_once_are_counted(tmp_path, monkeypatch):
    """Beside a running worker `retry` said that 0 rows were queued again: it counted what nobody held yet."""
    url = f"sqlite:///{tmp_path / 'endmark.db'}"
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path))
    monkeypatch.setenv("ENDMARK_DATABASE_URL", url)
    with open_store(url) as store:
        submit(store, ["x"] * 3)
        answer_all(store, "length")

        def taken_at_once(*arguments):
            found = ask_again(*arguments)
            assert take(store) is not None
            return found

        monkeypatch.setattr(retry, "ask_again", taken_at_once)
        # A command keeps the names of its help that it is first asked with, for docs/commands.md too.
        words = ["retry", "latest", "--truncated", "--max-new-tokens", "300"]
        done = CliRunner().invoke(main.endmark, words)
    assert done.exit_code == 0, done.output
    assert re.search("^3 rows of job .* are queued again", done.stderr, re.MULTILINE)


def test_truncated_rows_asked_again_and_the_trace_of_a_job(endmark, tmp_path):
    with (tmp_path / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt"], *([prompt] for prompt in PROMPTS)])
    cut, again, trace = tmp_path / "cut.csv", tmp_path / "again.csv", tmp_path / "trace.jsonl"
    _, err = endmark("run", "prompts.csv", "-o", cut, "--max-new-tokens", SHORT, "--trace", code=3)
    assert "--truncated --strategy whole` retries" in err
    before = results(cut)
    assert [row["finish_reason"] for row in before] == ["length"] * 3 + ["error"]

    _, err = endmark("retry", "latest", code=2)
    assert "hint: give `--truncated`" in err
    _, err = endmark("retry", "latest", "--truncated", code=2)
    assert "would be cut again" in err
    _, err = endmark("retry", "latest", "--truncated", "--strategy", "eos-rewards", code=2)
    assert "did you mean `eos-reward`?" in err
    assert results(cut) == before

    _, err = endmark("export", "latest", "-o", "all.csv", "--trace", trace)
    assert "EOS probabilities of 3 rows written" in err
    about, *lines = map(json.loads, trace.read_text(encoding="utf-8").splitlines())
    assert (about["model"], about["max_new_tokens"]) == ("demo", SHORT)
    assert [line["row"] for line in lines] == [0, 1, 2]
    for line, row in zip(lines, before[:3], strict=True):
        assert (line["prompt"], line["response"]) == (row["prompt"], row["response"])
        assert len(line["eos_probs"]) == SHORT
        assert line["eos_prob_max"] == float(row["eos_prob_max"])
        assert line["eos_probs"][line["eos_step_max"]] == pytest.approx(line["eos_prob_max"], rel=2e-3, abs=1e-7)
        assert line["eos_prob_max"] >= max(line["eos_probs"]) * 0.998 - 1e-7
    out, _ = endmark("doctor", "--trace", trace, "--json", "-o", "page.html")
    seen = json.loads(out)
    assert (seen["answers"], seen["truncated"], seen["max_new_tokens"]) == (3, 3, SHORT)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [row["prompt_tokens"] for row in seen["rows"]] == [line["prompt_tokens"] for line in lines]
    assert page.count("<svg") == 4  # all together, then one for each answer
    assert PROMPTS[0] in page
    (tmp_path / "bad.jsonl").write_text('{"max_new_tokens": 3}\n{"row": 0}\n')
    _, err = endmark("doctor", "--trace", "bad.jsonl", code=2)
    assert err.startswith("error: bad.jsonl:2: is no trace")

    _, err = endmark("retry", "latest", "--truncated", "--strategy", "eos-reward", "--max-new-tokens", 40)
    assert "3 rows of job" in err
    assert "`endmark worker`" in err
    _, err = endmark("retry", "latest", "--truncated", "--strategy", "eos-reward", "--max-new-tokens", 40, code=1)
    assert "is queued: its rows can be asked again when it has ended" in err
    status = work_until_done(endmark, tmp_path / "home")
    assert (status["state"], status["succeeded"], status["failed"]) == ("completed_with_errors", 3, 1)
    endmark("export", "latest", "-o", again)
    after = results(again)
    assert [row["finish_reason"] for row in after] == ["eos"] * 3 + ["error"]
    assert [row["attempts"] for row in after] == ["2", "2", "2", "1"]
    assert all(new["response"].startswith(old["response"]) for new, old in zip(after[:3], before[:3], strict=True))

    _, err = endmark("retry", "latest", "--failed")
    assert "1 row of job" in err
    status = work_until_done(endmark, tmp_path / "home")
    assert (status["state"], status["failed"]) == ("completed_with_errors", 1)
    endmark("export", "latest", "-o", again)
    assert results(again)[3]["attempts"] == "2"
    assert results(again)[:3] == after[:3]
