"""What the doctor reads of a tokeniser's chat template and a generation config."""

from types import SimpleNamespace

import pytest
import torch
from jinja2 import Template
from safetensors.torch import save_file
from transformers import GenerationConfig, LlamaConfig

from endmark.jobs.sampling import Sampling
from endmark.worker.demo import MODEL_DIR
from endmark.worker.doctor.end_rows import untrained_rows
from endmark.worker.doctor.facts import own_sampling, read_facts, read_weights
from endmark.worker.doctor.held_down import holding_down

pytestmark = pytest.mark.engine

SPECIAL = {0: "<s>", 1: "</s>", 2: "<|end|>", 3: "<|return|>", 4: "<|user|>"}
TURNS = "{% for m in messages %}<|user|>{{ m['content'] }}"


class Tokenizer:
    """A tokeniser of these special tokens and one plain added one."""

    added_tokens_decoder = {  # noqa: RUF012  as transformers has it
        **{index: SimpleNamespace(content=text, special=True) for index, text in SPECIAL.items()},
        5: SimpleNamespace(content="!", special=False),
    }
    bos_token, bos_token_id, eos_token_id, pad_token_id = "<s>", 0, 1, None

    def __init__(self, template, adds_bos=False):
        self.chat_template, self._adds_bos = template, adds_bos

    def __call__(self, text):
        return {"input_ids": [0, 65] if self._adds_bos else [65, 0]}

    def apply_chat_template(self, turns, *, tokenize, add_generation_prompt):
        assert not tokenize
        return Template(self.chat_template).render(
            messages=turns, asked="<|assistant|>" if add_generation_prompt else ""
        )


def facts_of(template, config=None, **options):
    return read_facts("m", None, Tokenizer(template, **options), config or GenerationConfig(), {1, 2})


@pytest.mark.parametrize(
    ("template", "turn_end"),
    [
        (TURNS + "<|end|>{% endfor %}", 2),
        (TURNS + "<|end|></s>{% endfor %}", 2),  # the first of two is what the model writes first
        (TURNS + "</s><|end|>{% endfor %}", 1),
        (TURNS + " \n<|return|>\n<|end|>{% endfor %}", 3),  # white space between is none of its words
        (TURNS + "!</s>{% endfor %}", None),  # text of the template's own stands before it
        (TURNS + "{% endfor %}", None),
        ("{% for m in messages %}{{ m['content'] }}{% if not loop.last %}</s>{% endif %}{% endfor %}", None),
        (None, None),
    ],
)
def test_the_turn_end_is_the_first_special_token_behind_an_answer(template, turn_end):
    assert facts_of(template).turn_end == turn_end


@pytest.mark.parametrize(
    ("template", "adds_bos", "expected"),
    [
        ("<s>" + TURNS + "{% endfor %}", False, (True, False)),
        (TURNS + "<s>{% endfor %}", True, (False, True)),
        (None, True, (False, True)),
    ],
)
def test_who_adds_the_begin_token(template, adds_bos, expected):
    facts = facts_of(template, adds_bos=adds_bos)
    assert (facts.template_adds_bos, facts.tokenizer_adds_bos) == expected
    assert facts.has_chat_template == (template is not None)


@pytest.mark.parametrize(("value", "ids"), [(None, ()), (7, (7,)), ([7, 2], (7, 2))])
def test_end_ids_of_the_generation_config(value, ids):
    facts = facts_of(None, GenerationConfig(eos_token_id=value))
    assert facts.generation_eos == ids
    assert facts.used_eos == (1, 2)
    assert facts.token_names == SPECIAL


@pytest.mark.parametrize(
    ("config", "sampling"),
    [
        ({"temperature": 0.3, "top_k": 7}, Sampling()),  # says how, and not that it should
        ({"do_sample": True}, Sampling(temperature=1.0, top_k=50, top_p=1.0)),
        ({"do_sample": True, "temperature": 0.6, "top_k": 0, "top_p": 0.9}, Sampling(0.6, top_k=0, top_p=0.9)),
        (
            {"do_sample": True, "temperature": None, "top_k": None, "top_p": None},
            Sampling(1.0, top_k=50, top_p=1.0),
        ),
    ],
)
def test_a_model_samples_as_its_generation_config_says(config, sampling):
    assert own_sampling(GenerationConfig(**config)) == sampling
    assert facts_of(None, GenerationConfig(**config)).generation_top_k == (
        sampling.top_k if config.get("do_sample") else 7
    )


ROLES = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "lacking"),
    [
        (ROLES, "<|assistant|>"),
        (ROLES + "{{ asked }}", ""),
        ("{% for m in messages %}[{{ m.content }}] {% endfor %}", "["),
        ("{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}"
         "</s>{% endif %}{% endfor %}", ""),  # Llama 2: the user's turn ends where the answer begins
        (None, ""),
    ],
)  # fmt: skip
def test_what_a_template_writes_before_an_answer_only_once_it_is_there(template, lacking):
    assert facts_of(template).lacking_opening == lacking


@pytest.mark.parametrize(
    ("template", "marks"),
    [
        (TURNS + "</s>{% endfor %}", ()),
        ("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}", ("[user]",)),
        ("{% for m in messages %}<|user|>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}", ()),  # a word alone
        (None, ()),
    ],
)
def test_the_plain_text_that_begins_the_next_turn(template, marks):
    assert facts_of(template).turn_marks == marks


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({}, []),
        ({"min_new_tokens": 0, "suppress_tokens": [], "bad_words_ids": [[5], [2, 5]]}, []),
        ({"suppress_tokens": [7], "begin_suppress_tokens": [220], "sequence_bias": [[[7], -9.0]]}, []),
        ({"min_new_tokens": 30, "min_length": 40}, ["min_new_tokens", "min_length"]),
        ({"suppress_tokens": [7, 2]}, ["suppress_tokens"]),
        ({"begin_suppress_tokens": [220, 1]}, ["begin_suppress_tokens"]),
        ({"bad_words_ids": [[5], [2]]}, ["bad_words_ids"]),
        ({"sequence_bias": [[[2], -3.0]]}, ["sequence_bias"]),
        ({"sequence_bias": {(2,): -3.0}}, ["sequence_bias"]),
        ({"sequence_bias": [[[2], 3.0]]}, []),
        ({"forced_eos_token_id": 2}, ["forced_eos_token_id"]),
        ({"exponential_decay_length_penalty": (20, 1.01)}, ["exponential_decay_length_penalty"]),
    ],
)
def test_what_holds_the_end_tokens_down(config, names):
    assert list(holding_down(config, frozenset((1, 2)))) == names
    assert list(facts_of(None, GenerationConfig(**config)).holding_down) == names


def test_rows_that_were_never_trained_are_told_from_trained_ones(tmp_path):
    """As found in real models: left at zero, made as the mean of the others, or reserved and all alike."""
    torch.manual_seed(0)
    rows = torch.randn(320, 64) + 1
    rows[3] = 1e-9
    rows[4] = rows.mean(0) + torch.randn(64) * 1e-3
    rows[5] = rows[6] + torch.randn(64) * 1e-3
    save_file(
        {"model.embed_tokens.weight": torch.zeros(320, 64), "lm_head.weight": rows}, tmp_path / "a.safetensors"
    )
    assert untrained_rows(tmp_path, (1, 2, 3, 4, 5, 999)) == (3, 4, 5)
    assert untrained_rows(tmp_path, (7,)) == ()
    assert untrained_rows(tmp_path / "nothing", (1,)) == ()


def test_the_demo_model_knows_its_end_token_and_has_never_seen_its_padding():
    assert untrained_rows(MODEL_DIR, (1, 2)) == (2,)


@pytest.mark.parametrize(
    ("rope", "window"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, 4096),
        ({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 1024}, 1024),
    ],
)
def test_the_window_is_that_of_the_training_and_not_what_positions_are_stretched_to(rope, window):
    config = LlamaConfig(max_position_embeddings=4096, rope_parameters=rope)
    assert read_weights(facts_of(None), config, MODEL_DIR).window == window
