"""Rows become token ids: template and BOS, prompt strategies, the system turn, overrides, and rows that fail."""

import pytest

from endmark.jobs.prompts import PromptPlan
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.worker.service.prompting import Prompter
from tests.unit.byte_tokenizer import BOS, ByteTokenizer, cells_of, turns_of

pytestmark = pytest.mark.unit


def read(cells, *, columns=("prompt",), tokenizer=None, **options):
    tokenizer = tokenizer or ByteTokenizer()
    spec = GenerationSpec(**options)
    return tokenizer, Prompter(tokenizer).read(PromptPlan(columns, spec), spec, cells)


def texts(cells, **options):
    tokenizer, prompts = read(cells, **options)
    assert all(prompt.error is None for prompt in prompts)
    return [tokenizer.decode(prompt.token_ids) for prompt in prompts]


def test_the_chat_template_is_applied_and_bos_stands_there_once():
    assert texts(cells_of("hi", "you")) == ["<s>[user]hi[assistant]", "<s>[user]you[assistant]"]


def test_raw_prompts_get_the_tokenisers_special_tokens_alone():
    assert texts(cells_of("hi"), raw=True) == ["<s>hi"]
    assert texts(cells_of("hi"), tokenizer=ByteTokenizer(template=False)) == ["<s>hi"]


def test_the_tokeniser_is_called_once_for_all_rows():
    tokenizer, _ = read(cells_of(*"abcdefgh"))
    assert tokenizer.calls == 1


def test_a_system_turn_comes_first_unless_the_row_has_its_own():
    own = turns_of(("system", "mine"), ("user", "hi"))
    other = turns_of(("user", "hi"))
    assert texts([(own,), (other,)], columns=("messages",), system="be brief") == [
        "<s>[system]mine[user]hi[assistant]",
        "<s>[system]be brief[user]hi[assistant]",
    ]


def test_prompt_strategies_amend_the_last_user_turn_only():
    strategies = build_strategies(["concise:text=Be brief."])
    chat = turns_of(("user", "a"), ("assistant", "b"), ("user", "c"))
    assert texts([(chat,)], columns=("messages",), strategies=strategies) == [
        "<s>[user]a[assistant]b[user]c Be brief.[assistant]"
    ]


def test_a_row_overrides_the_spec():
    _, prompts = read([("a", "7", "stop:text=x"), ("b", "", "")], columns=("prompt", "max_new_tokens", "strategy"))
    assert [prompt.spec.max_new_tokens for prompt in prompts] == [7, 256]
    assert [str(prompt.spec.strategies[0]) for prompt in prompts] == ["stop:text=x", "baseline"]


def test_rows_that_cannot_be_read_fail_alone():
    rows = cells_of("fine", "", "refuse me", "a lone \ud800 surrogate", "fine too")
    tokenizer, prompts = read(rows)
    errors = [prompt.error for prompt in prompts]
    assert errors[0] is errors[4] is None
    assert "is empty" in errors[1]
    assert "chat template refuses the row: no such turn" in errors[2]
    assert "tokeniser refuses the prompt" in errors[3]
    assert tokenizer.decode(prompts[4].token_ids) == "<s>[user]fine too[assistant]"


def test_chat_turns_need_a_template():
    _, prompts = read(
        [(turns_of(("user", "a"), ("assistant", "b"), ("user", "c")),)],
        columns=("messages",),
        tokenizer=ByteTokenizer(template=False),
    )
    assert "no chat template" in prompts[0].error


def test_again_makes_the_prompt_of_other_strategies():
    tokenizer = ByteTokenizer()
    spec = GenerationSpec()
    prompter = Prompter(tokenizer)
    (prompt,) = prompter.read(PromptPlan(("prompt",), spec), spec, cells_of("hi"))
    changed = prompter.again(prompt, build_strategies(["concise:text=Short!"]))
    assert tokenizer.decode(changed.token_ids) == "<s>[user]hi Short![assistant]"
    assert changed.token_ids[0] == BOS
    assert prompt.spec == spec
