"""What the doctor finds on the demo model with one thing damaged at a time: the whole way, files to finding."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from endmark.jobs.spec import GenerationSpec
from endmark.worker.demo import MODEL_DIR
from endmark.worker.doctor.checks import examine
from endmark.worker.doctor.collect import Sample, collect
from endmark.worker.doctor.findings import Level

pytestmark = pytest.mark.engine


def change(path: Path, **values) -> None:
    """Change values of a JSON file; None takes one out."""
    found = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


def generation(**values):
    """Damage the generation config."""
    return lambda folder: change(folder / "generation_config.json", **values)


def template(old, new):
    """Damage the chat template."""

    def edit(folder):
        path = folder / "chat_template.jinja"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edit


def window(folder):
    """Say that the positions are stretched from a shorter training."""
    rope = {"rope_type": "linear", "factor": 16.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    change(folder / "config.json", rope_parameters=rope)


def end_row(folder):
    """Leave the row of the end token as that of a token which was added after the training."""
    weights = load_file(folder / "model.safetensors")
    rows = weights["model.embed_tokens.weight"]
    rows[1] = rows.float().mean(0).to(rows.dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def not_numbers(folder):
    """Put NaN into a weight."""
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


DAMAGE = {
    "no generation prompt": (template("if add_generation_prompt", "if false"), Level.CAUSE, "<|assistant|>"),
    "no chat template": (
        lambda folder: (folder / "chat_template.jinja").unlink(),
        Level.CAUSE,
        "no `chat_template`",
    ),
    "end ids disagree": (
        template("eos_token if message['role'] == 'assistant'", "'<|user|>' if message['role'] == 'assistant'"),
        Level.CAUSE,
        "it closes with 4 (`<|user|>`)",
    ),
    "EOS held down": (generation(min_new_tokens=40), Level.CAUSE, "no end within 40 tokens"),
    "end token unknown elsewhere": (generation(eos_token_id=[4]), Level.RISK, "1 (`</s>`)"),
    "pad is EOS": (
        lambda folder: change(folder / "tokenizer_config.json", pad_token="</s>"),
        Level.RISK,
        "`</s>`",
    ),
    "beyond the window": (window, Level.CAUSE, "rows of 64"),
    "end rows untrained": (end_row, Level.CAUSE, "1 (`</s>`)"),
    "scores are no numbers": (not_numbers, Level.CAUSE, "4 of 4 answers"),
}


@pytest.fixture
def demo(tmp_path):
    """A copy of the demo model, under a name that says chat."""
    return Path(shutil.copytree(MODEL_DIR, tmp_path / "demo-chat"))


@pytest.mark.parametrize("name", list(DAMAGE))
def test_a_damaged_model_is_told_by_its_damage(demo, name):
    damage, level, seen = DAMAGE[name]
    damage(demo)
    budget = 160 if name == "end token unknown elsewhere" else 48
    evidence = collect(Sample(GenerationSpec(model=str(demo), max_new_tokens=budget), rows=4))
    found = {finding.check: finding for finding in examine(evidence)}
    assert name in found
    assert found[name].level is level
    assert seen in found[name].evidence


def test_the_demo_model_itself_has_none_of_these(demo):
    evidence = collect(Sample(GenerationSpec(model=str(demo), max_new_tokens=160), rows=4))
    assert not {finding.check for finding in examine(evidence)} & set(DAMAGE)
    assert {row.end_token for row in evidence.rows if row.ended} == {1}
