"""Template arguments and prefills: read, refused, and as the chat template and the model see them."""

import pytest

from endmark.cli.template_check import check_template
from endmark.client.options import parse_options
from endmark.jobs.datasets.openai import request_columns
from endmark.jobs.errors import SpecError
from endmark.jobs.prompts import PromptPlan, RowRequest
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.template_args import read_template_args
from endmark.jobs.thinking import Marks, prefilled
from endmark.worker.doctor.sampled import asks_for_no_thought
from endmark.worker.service.prompting import Prompt, Prompter
from tests.unit.byte_tokenizer import turns_of
from tests.unit.test_thinking_rows import ThinkingTokenizer

pytestmark = pytest.mark.unit

USER = {"role": "user", "content": "hi"}


class Switched(ThinkingTokenizer):
    """A tokeniser whose template closes the thought itself where `enable_thinking` is false, as Qwen3's does."""

    def apply_chat_template(self, conversation, *, enable_thinking=True, reasoning_effort=None, **options):
        text = super().apply_chat_template(conversation, **options)
        effort = f"({reasoning_effort})" if reasoning_effort else ""
        return effort + text + ("" if enable_thinking else "<think>\n\n</think>\n\n")


def prompt_of(cells, columns=("prompt",), tokenizer=None, **options):
    tokenizer = tokenizer or Switched()
    spec = GenerationSpec(**options)
    (prompt,) = Prompter(tokenizer).read(PromptPlan(columns, spec), spec, [cells])
    return prompt, tokenizer.decode(prompt.token_ids)


def test_arguments_are_json_or_a_plain_word():
    texts = ["enable_thinking=false", "reasoning_effort=high", "budget=5", 'words=["a"]', 'text="x=y"']
    assert read_template_args(texts) == {
        "enable_thinking": False,
        "reasoning_effort": "high",
        "budget": 5,
        "words": ["a"],
        "text": "x=y",
    }


@pytest.mark.parametrize(
    "text",
    ["enable_thinking", "enable_thinking=False", "a=None", "a={", "=1", "1a=2", "messages=[]", "tokenize=true"],
)
def test_other_arguments_are_refused(text):
    with pytest.raises(SpecError, match="template"):
        read_template_args([text])


def test_a_spec_with_arguments_is_stored_and_read():
    spec = GenerationSpec(template_args={"enable_thinking": False})
    assert GenerationSpec.from_json(spec.to_json()) == spec
    assert "template_args" not in GenerationSpec().to_json()
    with pytest.raises(SpecError, match="no chat template under `--raw`"):
        GenerationSpec(template_args={"a": 1}, raw=True)


def test_the_template_is_given_the_jobs_arguments_and_the_rows_over_them():
    columns = ("prompt", "template_args")
    prompt, text = prompt_of(["hi", None], columns, template_args={"enable_thinking": False})
    assert text.endswith("<think>\n\n</think>\n\n")
    assert not prompt.thought.opened
    own = '{"enable_thinking": true, "reasoning_effort": "low"}'
    for cell in (own, {"enable_thinking": True, "reasoning_effort": "low"}):
        _, text = prompt_of(["hi", cell], columns, template_args={"enable_thinking": False})
        assert (text[:5], text[-11:]) == ("(low)", "[assistant]")
    for cell, reason in (("[]", "not a JSON object"), ("{", "is not JSON"), ('{"tools": []}', "cannot be given")):
        prompt, _ = prompt_of(["hi", cell], columns)
        assert reason in prompt.error


def request(**body):
    return request_columns({"custom_id": "1", "body": {"messages": [USER], **body}})


def test_requests_of_a_batch_file_have_both_fields():
    assert request()["template_args"] is None
    assert request(reasoning_effort="low")["template_args"] == {"reasoning_effort": "low"}
    assert request(reasoning_effort="none")["template_args"]["enable_thinking"] is False
    assert request(reasoning_effort="none")["template_args"]["thinking"] is False, "as DeepSeek calls it"
    both = request(reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert both["template_args"] == {"reasoning_effort": "none", "enable_thinking": True, "thinking": False}
    for wrong in (
        {"reasoning_effort": "much"},
        {"chat_template_kwargs": [1]},
        {"chat_template_kwargs": {"a b": 1}},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            request(**wrong)


def test_an_argument_that_the_template_makes_nothing_of_is_refused_before_the_job(tmp_path):
    """Else a misspelt `enable_thinking` leaves thinking on, and nobody is told."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("{% if enable_thinking %}<think>{% endif %}{{ messages }}")
    check_template(GenerationSpec(model=str(tmp_path), template_args={"enable_thinking": False}))
    with pytest.raises(SpecError, match="makes nothing of `enable_thinkin`"):
        check_template(GenerationSpec(model=str(tmp_path), template_args={"enable_thinkin": False}))


PREFILLED = [  # the begin of the answer, what the template ends with, the prompt's end, inside a thought
    ("The answer", "", "[assistant]The answer", False),
    ("The answer", "<think>\n", "[assistant]The answer", False),
    ("<think>\nOkay", "<think>\n", "[assistant]<think>\nOkay", True),
    ("<think>\nOkay", "", "[assistant]<think>\nOkay", True),
    ("Okay.</think>Yes", "<think>\n", "[assistant]<think>\nOkay.</think>Yes", False),
    ("<think>a</think>Yes", "<think>\n", "[assistant]<think>a</think>Yes", False),
    ("Yes", "<think>\n\n</think>\n\n", "[assistant]<think>\n\n</think>\n\nYes", False),
]


@pytest.mark.parametrize(("begun", "opens", "end", "opened"), PREFILLED)
def test_an_assistants_last_turn_is_gone_on_from(begun, opens, end, opened):
    cell = turns_of(("user", "hi"), ("assistant", begun))
    prompt, text = prompt_of([cell], ("messages",), ThinkingTokenizer(opens=opens))
    assert text == "<s>[user]hi" + end
    assert prompt.thought.opened is opened
    assert prompt.error is None


def test_a_prefill_of_a_model_that_does_not_think():
    assert prefilled("a: ", "<think>", None) == "a: <think>"
    assert prefilled("a: ", "b", Marks("(", ")")) == "a: b"


def test_python_gives_arguments_as_a_mapping():
    spec, _ = parse_options({"model": "acme/m", "template_args": {"enable_thinking": False, "effort": "low"}})
    assert spec.template_args == {"enable_thinking": False, "effort": "low"}
    spec, _ = parse_options({"model": "acme/m", "template_arg": ["enable_thinking=false"]})
    assert spec.template_args == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("given", "system", "asked"),
    [
        ({}, None, False),
        ({"enable_thinking": False}, None, True),
        ({"thinking": False}, None, True),
        ({"reasoning_effort": "none"}, None, True),
        ({"thinking": True}, "Be brief. /nothink", True),
        ({}, "detailed thinking off", True),
    ],
)
def test_a_row_asks_for_no_thought_by_each_name_that_templates_have_for_it(given, system, asked):
    spec = GenerationSpec(template_args=given, system=system)
    assert asks_for_no_thought(Prompt(spec, RowRequest("hi", None, {}))) is asked
