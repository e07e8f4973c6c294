"""`endmark ask`, `endmark check` and `endmark estimate` as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


def endmark(*words, home, given="", **environment):
    """Run the command line; return the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "endmark.cli.main", *words],
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "ENDMARK_HOME": str(home), **environment},
    )


def test_one_prompt_is_answered_on_standard_output_and_its_verdict_beside(tmp_path):
    done = endmark("ask", "-", "--max-new-tokens", "40", "--json", home=tmp_path, given="What can I do in Paris?")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["response"].startswith("Paris")
    assert answer["finish_reason"] == "length"
    assert "not complete: length, ends with open, 40 tokens" in done.stderr
    # It is a job like any other.
    listed = json.loads(endmark("status", answer["job"], "--json", home=tmp_path).stdout)
    assert (listed["name"], listed["total"]) == ("What can I do in Paris?", 1)


def test_a_prompt_that_cannot_run_fails_with_its_reason(tmp_path):
    done = endmark("ask", "x " * 3000, home=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "failed: the prompt has 6,005 tokens" in done.stderr


def test_an_empty_prompt_stores_nothing(tmp_path):
    done = endmark("ask", " ", home=tmp_path)
    assert done.returncode == 2
    assert "the prompt is empty" in done.stderr
    assert not (tmp_path / "endmark.db").exists()


def test_a_machine_that_can_run_is_told_so(tmp_path):
    done = endmark("check", "--json", home=tmp_path)
    assert done.returncode == 0, done.stdout
    found = {item["what"]: item for item in json.loads(done.stdout)}
    assert {"libraries", "processor", "home", "database", "broker"} <= found.keys()
    assert "torch" in found["libraries"]["said"]


def test_what_is_known_is_told_while_the_libraries_are_imported(tmp_path):
    """`endmark check` said nothing for the six seconds that the libraries took to be imported."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    found = {"libraries": {"torch": "1"}, "broken": {}, "gpus": [], "memory": [1, 1], "cores": 1}
    child = f"open({str(gate)!r}).read(); print({json.dumps(found)!r})"
    code = (
        "import sys; from endmark.cli import check"
        f"; check.module_command = lambda _: [sys.executable, '-c', {child!r}]; check.check()"
    )
    done = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "ENDMARK_HOME": str(tmp_path)},
    )
    with done:
        before = [done.stdout.readline().split()[1] for _ in range(3)]
        gate.write_text("")
        after = [line.split()[1] for line in done.stdout if not line.startswith(" ")]
    assert before == ["home", "database", "broker"]
    assert after[:3] == ["libraries", "processor", "GPU"]


def test_the_libraries_are_imported_without_torchs_compiler(tmp_path):
    """It took half of the processor time of `endmark check`."""
    code = (
        "import sys; from endmark.worker.models import machine; machine.main()"
        "; sys.exit('torch._dynamo' in sys.modules and 'the compiler was loaded')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["libraries"].keys() == {"torch", "transformers", "bitsandbytes", "accelerate"}


def test_what_is_in_the_way_is_told_with_its_fix_and_the_exit_code(tmp_path):
    away = endmark(
        "check", home=tmp_path, ENDMARK_BROKER_URL="redis://localhost:1/0", ENDMARK_DATABASE_URL="oracle://x/y"
    )
    assert away.returncode == 1
    lines = away.stdout.splitlines()
    assert any(line.startswith("bad   database   the database `oracle` is not supported") for line in lines)
    assert any(line.startswith("bad   broker") for line in lines)
    assert sum("→" in line for line in lines) >= 2


def test_a_sample_says_what_the_whole_dataset_would_take(tmp_path):
    words = ["--sample", "6", "--max-new-tokens", "30", "--price-per-gpu-hour", "2", "--json"]
    done = endmark("estimate", str(ROOT / "examples" / "prompts.csv"), *words, home=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["sample"], found["devices"]) == (73, 6, 1)
    assert found["completion_tokens"]["low"] <= found["completion_tokens"]["value"] <= 73 * 30
    assert found["cost"]["value"] == pytest.approx(found["seconds"]["value"] / 3600 * 2)
    listed = json.loads(endmark("status", found["job"], "--json", home=tmp_path).stdout)
    assert (listed["name"], listed["succeeded"]) == ("prompts.csv: estimate", 6)
    assert listed["tokens_per_second"] == pytest.approx(found["tokens_per_second"])
