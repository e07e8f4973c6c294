"""`endmark finetune` on the bundled model: in a worker, killed, gone on with beside the command, and in use."""

import csv
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.test_cli_run import finished, start

pytestmark = pytest.mark.integration
__all__ = ["start"]
EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = ["--steps", 30, "--learning-rate", 0.002, "--held-out", 24, "--save-every", 10, "--max-new-tokens", 160]


def trainer_of(process):
    """The process that trains, among the children's children."""
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    family = {str(process.pid)}
    while grown := {pid for pid, parent, _ in rows if parent in family} - family:
        family |= grown
    return next(
        (int(pid) for pid, _, args in rows if pid in family and args.endswith("endmark.worker.finetune")), None
    )


def wait_for(look):
    deadline = time.monotonic() + 200
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def test_the_bundled_model_learns_to_end_its_answers(start, tmp_path):
    adapter = tmp_path / "adapter"
    process = start("finetune", EXAMPLES / "finetune.jsonl", "-o", "adapter", *WORDS)
    wait_for((adapter / "checkpoints" / "checkpoint-10" / "trainer_state.json").is_file)
    os.kill(trainer_of(process), signal.SIGKILL)
    out, err = finished(process, code=1)
    assert out == ""
    assert "EOS is in the labels of" in err
    assert "error: the training was killed by SIGKILL" in err
    assert "called again, it goes on from its last checkpoint" in err

    refused = start("finetune", EXAMPLES / "finetune.jsonl", "-o", "adapter", "--here", *WORDS, "--seed", 1)
    assert "holds a fine-tuning with other data, another model or other options" in finished(refused, code=2)[1]

    out, err = finished(start("finetune", EXAMPLES / "finetune.jsonl", "-o", "adapter", "--here", *WORDS))
    assert out == f"{adapter}\n"
    assert re.search(r"going on from step [12]0 of 30", err)
    assert "evaluating the model as it is" not in err
    assert "natural EOS" in err
    evaluation = json.loads((adapter / "evaluation.json").read_text())
    before, after = evaluation["before"], evaluation["after"]
    assert before["prompts"] == after["prompts"] == 24
    assert before["natural_eos"] < 0.75
    assert after["natural_eos"] > 0.95
    assert after["perplexity_with_eos"] < before["perplexity_with_eos"]
    assert after["perplexity"] < 1.02 * before["perplexity"]
    manifest = json.loads((adapter / "manifest.json").read_text())
    assert manifest["base"]["model"] == "demo"
    assert manifest["seed"] == 0
    with (adapter / "loss.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 31))
    assert (adapter / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (adapter / "checkpoints").exists()
    _use(start, tmp_path)


def _use(start, tmp_path):
    """Run a job with the adapter; see it refused on another model."""
    lines = (EXAMPLES / "finetune.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["messages"][0]["content"] for line in lines]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": item}) + "\n" for item in asked[:20]))
    finished(start("run", "prompts.jsonl", "-o", "results.csv", "--adapter", "adapter", "--max-new-tokens", 160))
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["eos_source"] == "natural" for row in rows) >= 19
    _, err = finished(start("submit", "prompts.jsonl", "--model", "some/other", "--adapter", "adapter"), code=2)
    assert "was trained on `demo`, not on `some/other`" in err


def test_a_dataset_that_cannot_teach_is_refused_before_anything_starts(start, tmp_path):
    (tmp_path / "bad.csv").write_text("prompt,answer\nHi,\n")
    _, err = finished(start("finetune", "bad.csv", "-o", "adapter"), code=2)
    assert "bad.csv:2: column `answer` is empty" in err
    assert not (tmp_path / "adapter").exists()
