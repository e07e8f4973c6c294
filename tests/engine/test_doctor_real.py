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


def _with_row(folder, token, row):
    """Put another row into the output layer, made from the one of EOS and that of a word."""
    weights = load_file(folder / "model.safetensors")
    rows = weights["model.embed_tokens.weight"]
    rows[token] = row(rows[1].float(), rows[300].float()).to(rows.dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def never_taught(folder):
    """Let EOS be as likely as half of a rare word, wherever the text stands."""
    _with_row(folder, 1, lambda eos, word: 0.5 * word)


def mark_as_text(folder):
    """Let the model write a mark where it would end, and the tokeniser know the mark as plain text."""
    _with_row(folder, 4, lambda eos, word: 1.3 * eos)
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    for token in found["added_tokens"]:
        token["special"] = token["special"] and token["id"] != 4
    path.write_text(json.dumps(found))


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
    "EOS never learned": (never_taught, Level.CAUSE, "in 4 cut answers its highest probability was 0.0"),
    "marks written": (mark_as_text, Level.CAUSE, "`<|user|>` as text"),
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
    budget = 160 if name in ("end token unknown elsewhere", "EOS never learned", "marks written") else 48
    evidence = collect(Sample(GenerationSpec(model=str(demo), max_new_tokens=budget), rows=4))
    found = {finding.check: finding for finding in examine(evidence)}
    assert name in found
    assert found[name].level is level
    assert seen in found[name].evidence


def write_adapter(folder, fill):
    """Write an adapter of one layer whose second matrix is filled with a number."""
    folder.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    pair = {name.format("A"): torch.ones(2, 192), name.format("B"): torch.full((192, 2), fill)}
    save_file(pair, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def findings(adapter):
    """Return what is found of the demo model under an adapter."""
    spec = GenerationSpec(adapter=str(adapter), max_new_tokens=48)
    return {finding.check: finding for finding in examine(collect(Sample(spec, rows=2)))}


def test_an_adapter_of_nan(tmp_path):
    """It was once told as "EOS weakly learned", with probabilities of nan %."""
    found = findings(write_adapter(tmp_path / "nan", float("nan")))
    assert found["scores are no numbers"].level is Level.CAUSE
    assert "--adapter" not in found["scores are no numbers"].command
    assert not any("learned" in name for name in found)


def test_an_adapter_whose_template_closes_with_a_token_that_nothing_trained(tmp_path):
    """The chat template is the adapter's; its closing token is one that no training has seen."""
    adapter = write_adapter(tmp_path / "pads", 0.0)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MODEL_DIR / name, adapter)
    template("eos_token if message['role'] == 'assistant'", "'<pad>' if message['role'] == 'assistant'")(adapter)
    found = findings(adapter)
    assert "2 (`<pad>`)" in found["end rows untrained"].evidence
    assert f"the adapter `{adapter}` does not train it" in found["end rows untrained"].title
    assert "close answers with 1 (`</s>`)" in found["end rows untrained"].fix


def test_the_demo_model_itself_has_none_of_these(demo):
    evidence = collect(Sample(GenerationSpec(model=str(demo), max_new_tokens=160), rows=4))
    assert not {finding.check for finding in examine(evidence)} & set(DAMAGE)
    assert {row.end_token for row in evidence.rows if row.ended} == {1}


@pytest.mark.parametrize(
    ("name", "given", "seen"),
    [
        ("other sampling", {"temperature": 0.0}, "it asks for temperature 0.6"),
        ("loops", {"temperature": 0.0, "logit_bias": ((300, 100.0),)}, "4 of 4"),
        ("marks written", {"temperature": 0.0, "logit_bias": ((4, 100.0),)}, "<|user|>"),
        ("ends too soon", {"temperature": 0.0, "logit_bias": ((1, 100.0),), "min_new_tokens": 8}, "2 of 4"),
        ("empty answers", {"temperature": 0.0, "logit_bias": ((1, 100.0),)}, "4 of 4"),
    ],
)
def test_what_the_sample_was_asked_for_shows_in_its_answers(demo, name, given, seen):
    """The demo model itself, drawn so that it does what a model with this fault does."""
    generation(do_sample=True, temperature=0.6)(demo)
    sample = Sample(GenerationSpec(model=str(demo), max_new_tokens=96), rows=4, given=given)
    found = {finding.check: finding for finding in examine(collect(sample))}
    assert seen in found[name].evidence
