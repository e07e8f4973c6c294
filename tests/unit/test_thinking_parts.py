"""Thinking marks: which ones a model uses, and what of a text is thought."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endmark.jobs.errors import SpecError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.thinking import Marks, find_marks, is_opened, read_marks, split

pytestmark = pytest.mark.unit

THINK = Marks("<think>", "</think>")
FOUND = [
    ("Qwen3", ["<|im_end|>", "<think>", "</think>"], "{%- if '</think>' in content %}", "<think>"),
    ("SmolLM2", ["<|im_start|>", "<|im_end|>"], "<|im_start|>", None),
    ("Nemotron: its marks are ordinary text", [], "message['content'].split('</think>')|last", "<think>"),
    ("R1 distilled", ["<think>", "</think>"], "<｜Assistant｜><think>\\n", "<think>"),
    ("Magistral", ["[THINK]", "[/THINK]", "[INST]"], "", "[THINK]"),
    ("gpt-oss", ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"], "", "<|channel|>analysis<|message|>"),
    ("Gemma 4", ["<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"], "", "<|channel>"),
    ("a half of a pair is none", ["<think>"], "", None),
]


@pytest.mark.parametrize(("model", "tokens", "template", "opening"), FOUND, ids=[item[0] for item in FOUND])
def test_the_marks_of_families(model, tokens, template, opening):
    del model
    marks = find_marks(tokens, [template])
    assert (marks and marks.open) == opening


def test_marks_given_by_hand():
    assert read_marks("<a>, </a>") == Marks("<a>", "</a>")
    assert read_marks("none") is None
    for wrong in ("<a>", "<a>,", ",</a>", "x,x", ""):
        with pytest.raises(SpecError, match="not two marks"):
            read_marks(wrong)
    with pytest.raises(SpecError):
        GenerationSpec(thinking_marks="<a>")


def test_a_spec_without_marks_is_stored_as_before():
    """Programs of before refuse a field that they do not know."""
    assert "thinking_marks" not in GenerationSpec().to_json()
    spec = GenerationSpec(thinking_marks="<a>,</a>")
    assert GenerationSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("prompt", "raw", "opened"),
    [
        ("<|Assistant|><think>\n", False, True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False, False),
        ("what is <think>?<|im_end|>assistant\n", False, False),
        ("what is\n<think>\nfor?<|im_end|>assistant\n", False, False),
        ("<|im_start|>assistant\n<think>\nOkay, so", True, True),
        ("<think>Okay</think>\nSo the answer", True, False),
        ("What does <think> mean?", True, False),
    ],
)
def test_whether_a_prompt_ends_inside_a_thought(prompt, raw, opened):
    assert is_opened(prompt, THINK, raw=raw) is opened


SPLIT = [  # text, opened by the prompt, reasoning, answer, ends inside a thought
    ("Plain.", False, None, "Plain.", False),
    ("  Plain.\n", False, None, "  Plain.\n", False),
    ("", False, None, "", False),
    ("", True, "", "", True),
    ("<think>a</think>b", False, "a", "b", False),
    ("\n<think>\na\n</think>\n\nb", False, "a", "b", False),
    ("a\n</think>\n\nb", True, "a", "b", False),
    ("a and so", True, "a and so", "", True),
    ("<think>a", False, "a", "", True),
    ("<think></think>b", False, "", "b", False),
    ("<think>a</think>", False, "a", "", False),
    ("a</think>b", False, "a", "b", False),
    ("<think>a</think><think>c</think>b", False, "a\n\nc", "b", False),
    ("<think>a</think>One.\n<think>c</think>\nTwo.", False, "a\n\nc", "One.\n\nTwo.", False),
    ("<think>a</think>One.\n<think>c", False, "a\n\nc", "One.\n", True),
    ("<think>a</think>One.<think>c</think>Two.", False, "a\n\nc", "One.Two.", False),
    ("<think>a</think>`x.<think>`", False, "a", "`x.<think>`", False),
    ("<think>\na</think>b", True, "a", "b", False),
    ("<think>a</think>Use <think> so.", False, "a", "Use <think> so.", False),
    ("<think>a</think>```\n<think>x</think>\n```\n", False, "a", "```\n<think>x</think>\n```\n", False),
    ("The mark `</think>` ends it.", False, None, "The mark `</think>` ends it.", False),
    ("```\n</think>\n```", False, None, "```\n</think>\n```", False),
    ("<think>a</think>b</think>c", False, "a", "b</think>c", False),
    ("<think>a <think> b</think>c", False, "a <think> b", "c", False),
    ("<thinking>a</think", False, None, "<thinking>a</think", False),
]


@pytest.mark.parametrize(("text", "opened", "reasoning", "answer", "is_open"), SPLIT)
def test_a_text_is_split(text, opened, reasoning, answer, is_open):
    parts = split(text, THINK, opened=opened)
    assert (parts.reasoning, parts.answer(text), parts.is_open) == (reasoning, answer, is_open)


def test_the_name_of_gemmas_channel_is_no_part_of_the_thought():
    marks = find_marks(["<|channel>", "<channel|>"], [])
    for text, reasoning in (
        ("<|channel>thought\nHm. A thought\nagain.\n<channel|>Yes.", "Hm. A thought\nagain."),
        ("<|channel>thought\n<channel|>Yes.", ""),
        ("Yes.", None),
    ):
        parts = split(text, marks, opened=False)
        assert (parts.reasoning, parts.answer(text)) == (reasoning, "Yes.")


def test_a_loop_of_marks_is_no_further_thought():
    parts = split("<think>\n</think>\n" * 500, THINK, opened=False)
    assert parts.closed == 8
    assert not parts.is_open


PIECES = st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "\n", "`", "```", "b.", "<"]), max_size=30)


@given(PIECES, st.booleans())
def test_a_growing_text_is_split_as_its_whole(pieces, opened):
    """What has been told to be thought or answer stays so, whatever follows."""
    text, states = "", []
    for piece in pieces:
        text += piece
        parts = split(text, THINK, opened=opened)
        states.append((parts.closed, parts.is_open, parts.begin))
    assert [state[0] for state in states] == sorted(state[0] for state in states)
    assert [state[2] for state in states] == sorted(state[2] for state in states)
    parts = split(text, THINK, opened=opened)
    if parts.reasoning is None:
        assert parts.answer(text) == text
