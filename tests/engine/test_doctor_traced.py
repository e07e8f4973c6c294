"""The doctor on the trace of a job that has run: no weights are loaded, the rows are read from a file."""

import json

import pytest

from endmark.worker.doctor.checks import examine
from endmark.worker.doctor.sampled import loop_in
from endmark.worker.doctor.traced import read_traced

pytestmark = pytest.mark.engine

ABOUT = {"model": "demo", "adapter": None, "raw": False, "max_new_tokens": 100, "sampling": {}}
ROW = {
    "prompt": "Why?",
    "response": "Because.",
    "finish_reason": "length",
    "eos_source": None,
    "completion_tokens": 100,
    "eos_rank_max": 5,
    "eos_hidden_steps": 0,
    "eos_probs": [0.001] * 100,
}


def traced(folder, *rows):
    """Return what is found of a trace with these rows."""
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (ABOUT, *({**ROW, **row} for row in rows))))
    evidence = read_traced(str(path), limit=24)
    return evidence, {finding.check: finding for finding in examine(evidence)}


def test_a_loop_that_changes_is_found_in_a_trace(tmp_path):
    """Only rows that `no-loops` had ended counted as loops."""
    steps = "".join(f"Step {number}: Add the flour and stir it well. " for number in range(1, 30))
    _, found = traced(tmp_path, {"response": steps})
    assert "1 of 1 answers, 1 of them with words or numbers that change" in found["loops"].evidence


def test_a_row_cut_inside_its_thought_is_no_sign_of_a_model_that_cannot_end(tmp_path):
    _, found = traced(
        tmp_path, {"response": "", "reasoning": "Hm, ", "reasoning_tokens": 100, "ended_in": "reasoning"}
    )
    assert set(found) == {"thought unfinished"}


def test_prompts_beyond_the_window_are_found_in_a_trace_and_older_traces_lack_them(tmp_path):
    assert "beyond the window" in traced(tmp_path, {"prompt_tokens": 1000})[1]
    evidence, found = traced(tmp_path, {})
    assert "beyond the window" not in found
    assert evidence.rows[0].prompt_tokens == 0


def test_a_loop_is_shown_without_the_full_stop_that_led_into_it():
    """SmolLM2-135M's was told as “. I can also help you with everything from food and wine to”."""
    text = "I can help with food" + ". I can also help you with everything from food and wine to shoes" * 6
    assert loop_in(text) == ("I can also help you with everything from food and wine to…", False)
    assert loop_in("!" * 300)[0].startswith("!")
