"""What the doctor reads of a tokeniser's chat template and a generation config."""

from types import SimpleNamespace

import pytest
from jinja2 import Template
from transformers import GenerationConfig

from endmark.jobs.sampling import Sampling
from endmark.worker.doctor.facts import own_sampling, read_facts

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
        text = Template(self.chat_template).render(messages=turns)
        return text + ("<|assistant|>" if add_generation_prompt else "")


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
