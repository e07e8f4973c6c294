"""A chat template that refuses a job's turns is told before the job is stored."""

import json

import pytest

from endmark.cli.template_check import check_template
from endmark.jobs.errors import SpecError
from endmark.jobs.spec import GenerationSpec

pytestmark = pytest.mark.unit

NO_SYSTEM = """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{{ message['content'] | trim }}{% endfor %}"""
NEEDS_SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('say who I am') }}{% endif %}"
REFUSES_ALL = "{{ raise_exception('never') }}"
NEEDS_MORE = "{% if x %}{{ raise_exception('x') }}{% endif %}{{ strftime_now('%d') }}{{ messages | nothing }}"


@pytest.fixture
def model(tmp_path):
    """Make a model's folder with a template; return its path."""
    (tmp_path / "config.json").write_text("{}")

    def make(template, place="chat_template.jinja"):
        config = {"bos_token": {"content": "<s>"}}
        if place == "chat_template.jinja":
            (tmp_path / place).write_text(template)
        elif place == "list":
            config["chat_template"] = [
                {"name": "tool_use", "template": ""},
                {"name": "default", "template": template},
            ]
        else:
            config["chat_template"] = template
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return str(tmp_path)

    return make


@pytest.mark.parametrize("place", ["chat_template.jinja", "list", "text"])
def test_a_system_turn_that_the_template_refuses(model, place):
    """Every row failed after the model had been loaded, as with Gemma and the first Mistral models."""
    folder = model(NO_SYSTEM, place)
    check_template(GenerationSpec(model=folder))
    with pytest.raises(SpecError, match="refuses `--system`: System role not supported") as caught:
        check_template(GenerationSpec(model=folder, system="Be brief."))
    assert "--template" in caught.value.hint


def test_a_template_that_needs_a_system_turn(model):
    folder = model(NEEDS_SYSTEM)
    check_template(GenerationSpec(model=folder, system="You are a cook."))
    check_template(GenerationSpec(model=folder, raw=True))
    with pytest.raises(SpecError, match="without a system turn: say who I am"):
        check_template(GenerationSpec(model=folder))


@pytest.mark.parametrize("template", [REFUSES_ALL, NEEDS_MORE, "{% raise_exception"])
def test_what_is_not_about_the_system_turn_is_left_to_the_worker(model, template):
    check_template(GenerationSpec(model=model(template), system="x"))


def test_a_model_that_is_not_here():
    check_template(GenerationSpec(model="org/elsewhere", system="x"))
    check_template(GenerationSpec(system="x"))
