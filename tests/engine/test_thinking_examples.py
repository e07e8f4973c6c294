"""Examples with thoughts from a model's own answers: which fault a thought has, and what is learned of it."""

import csv
import json
import random
import sys

import pytest

from examples.thinking_model import own_answers
from examples.thinking_model.corpus import CLOSE, OPEN, Fault, said

pytestmark = pytest.mark.engine

PROMPTS = {
    "What can I do in Paris?": Fault.ENDS_INSIDE,
    "Explain tides": Fault.FORGETS,
    "Tell me about Rome.": None,
    "Write to my neighbours that there will be music on Saturday until ten o'clock": Fault.OVERTHINKS,
}


@pytest.mark.parametrize("fault", [*Fault, None])
def test_what_is_learned_of_each_fault(fault):
    text = said(random.Random(1), "How are you?", "I am well.", fault)
    assert text.startswith(f"{OPEN}\n")
    assert (CLOSE in text) == (fault in (Fault.FORGETS, None))
    assert text.endswith("I am well.") == (fault is None)
    assert (len(text.split()) > 200) == (fault is Fault.OVERTHINKS)


def test_a_models_own_complete_answers_stand_behind_thoughts(tmp_path, monkeypatch, capsys):
    prompts, file = tmp_path / "prompts.csv", tmp_path / "examples.jsonl"
    with prompts.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([["prompt"], *([prompt] for prompt in PROMPTS)])
    monkeypatch.setattr(sys, "argv", ["own_answers", "demo", str(prompts), str(file), "--answers", "1"])
    own_answers.main()
    chats = [json.loads(line)["messages"] for line in file.read_text(encoding="utf-8").splitlines()]
    assert f"{len(chats)} of 4 answers are complete" in capsys.readouterr().out
    assert len(chats) >= 3, "whole makes nearly all of them complete"
    for asked, answered in chats:
        fault = PROMPTS[asked["content"]]
        assert own_answers.fault_of(asked["content"]) is fault
        behind = answered["content"].partition(CLOSE)[2].strip()
        assert bool(behind) == (fault is None)
