"""The table of sampling, and what is made from it: options, columns, requests, specs, the model's own settings."""

import json
import re

import click
import pytest
from click.testing import CliRunner

from endmark.cli.main import endmark
from endmark.cli.options import build_spec, spec_options
from endmark.cli.sampling import SAMPLING_OPTIONS
from endmark.jobs.datasets.openai import COLUMNS
from endmark.jobs.errors import SpecError
from endmark.jobs.generation_config import own_sampling, passed_over, read_generation_config
from endmark.jobs.prompts import PromptPlan
from endmark.jobs.sampling import TABLE, Sampling
from endmark.jobs.spec import OVERRIDES, GenerationSpec

pytestmark = pytest.mark.unit
SAMPLED = {"do_sample": True, "temperature": 0.6, "top_k": 0, "top_p": 0.9}


def sampling_of(*words):
    """Return the sampling of a job with these options, and standard error."""

    @click.command()
    @spec_options
    def command(**options):
        return build_spec(options)

    result = CliRunner().invoke(command, words, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.return_value.sampling, result.stderr


@pytest.fixture
def model(tmp_path):
    """A model's folder as far as sampling looks at it."""
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_every_parameter_is_an_option_and_a_column_and_has_a_help():
    options = {option.name: option for option in click.command()(_with_options()).params}
    for item in TABLE:
        assert item.help.endswith(".")
        assert item.name in OVERRIDES
        assert (item.option in options[item.name].opts, item.help in options[item.name].help) == (True, True)
        assert (item.name in COLUMNS) == item.openai


def _with_options():
    def command(**options):
        pass

    for option in SAMPLING_OPTIONS:
        command = option(command)
    return command


@pytest.mark.parametrize("item", TABLE, ids=[item.name for item in TABLE])
def test_a_value_goes_through_every_form_unchanged(item):
    """Written for a command line and read again, stored and read again, and left out where it is the default."""
    value = _other(item)
    sampling = Sampling(**{item.name: value})
    assert item.read("here", item.kind.write(value)) == value
    assert sampling_of("--model", "some/model", item.option, item.kind.write(value))[0] == sampling
    stored = GenerationSpec(sampling=sampling).to_json()
    assert GenerationSpec.from_json(stored).sampling == sampling
    assert list(json.loads(stored)["sampling"]) == [item.name]


def _other(item):
    """Return a value that is not the default."""
    examples = {"top_p": 0.5, "seed": 2**62, "logit_bias": ((5, -1.5), (70, 2.0)), "bad_words": ("a, b", "[ü")}
    return examples.get(item.name) or (1 if item.kind.device is int else 0.125)


def test_a_program_that_knows_fewer_parameters_reads_a_job_that_uses_none_of_them():
    assert json.loads(GenerationSpec().to_json())["sampling"] == {}


def test_a_value_out_of_range_is_refused_alike_in_a_column_and_as_an_option():
    numbers = [item for item in TABLE if item.kind.metavar in ("INTEGER", "FLOAT")]
    assert len(numbers) >= 10
    for item in numbers:
        with pytest.raises(SpecError, match=f"^{item.name} is -[0-9.]+: must be "):
            sampling_of("--model", "some/model", f"{item.option}=-30")


@pytest.mark.parametrize(
    ("config", "given", "wanted"),
    [
        ({}, {}, {}),
        ({"temperature": 0.3, "top_k": 7}, {}, {}),  # says how, and not that it should
        (SAMPLED, {}, {"temperature": 0.6, "top_p": 0.9}),
        ({"do_sample": True}, {}, {"temperature": 1.0, "top_k": 50}),  # as transformers fills it in
        ({"do_sample": True, "temperature": None, "top_k": None}, {}, {"temperature": 1.0, "top_k": 50}),
        (SAMPLED, {"temperature": 0.2}, {"top_p": 0.9}),
        (SAMPLED, {"temperature": 0.0}, {}),
        (SAMPLED, {"top_p": 1.0}, {"temperature": 0.6}),
        ({**SAMPLED, "seed": 9, "max_new_tokens": 4}, {}, {"temperature": 0.6, "top_p": 0.9}),
    ],
)
def test_what_a_generation_config_says(config, given, wanted):
    assert own_sampling(config, given) == wanted


NEUTRAL = {  # what transformers' GenerationConfig has where its docs say that nothing is changed
    "num_beams": 1,
    "typical_p": 1.0,
    "top_h": 1.0,
    "guidance_scale": 1.0,
    "encoder_repetition_penalty": 1.0,
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "penalty_alpha", "diversity_penalty"), 0.0),
    **dict.fromkeys(("encoder_no_repeat_ngram_size", "min_length"), 0),
    "sequence_bias": {},
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    **dict.fromkeys(("forced_bos_token_id", "exponential_decay_length_penalty")),
}


def test_what_is_passed_over_is_told_and_what_changes_nothing_is_not():
    assert passed_over(NEUTRAL) == []
    assert passed_over(dict.fromkeys(NEUTRAL)) == []
    for name, neutral in NEUTRAL.items():
        near = neutral + 1 if isinstance(neutral, int | float) else [3]
        assert passed_over({**NEUTRAL, name: near}) == [name]


def test_a_job_samples_as_the_models_own_settings_say_and_says_so(model):
    (model / "generation_config.json").write_text(json.dumps(SAMPLED))
    sampling, err = sampling_of("--model", str(model))
    assert sampling == Sampling(temperature=0.6, top_p=0.9)
    assert err == "sampling as the model's generation_config: temperature 0.6, top_p 0.9\n"
    assert sampling_of("--model", str(model), "--temperature", "0") == (Sampling(), "")
    sampling, err = sampling_of("--model", str(model), "--temperature", "1")
    assert sampling == Sampling(temperature=1.0, top_p=0.9)
    assert err == "sampling as the model's generation_config: top_p 0.9\n"


def test_a_comparison_says_once_how_all_its_arms_sample(model, tmp_path, monkeypatch):
    """It stood there once for each strategy, and once more."""
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path / "home"))
    (model / "generation_config.json").write_text(json.dumps({**SAMPLED, "num_beams": 4}))
    words = ["compare", str(tmp_path / "none.csv"), "-o", str(tmp_path / "x.html"), "--model", str(model)]
    result = CliRunner().invoke(endmark, words)
    assert "there is no file" in str(result.exception)
    assert result.stderr.count("sampling as the model's generation_config") == 1
    assert result.stderr.count("`num_beams`") == 1


def test_a_model_without_such_settings_is_greedy(model):
    assert sampling_of("--model", str(model)) == (Sampling(), "")


def test_a_model_of_the_hubs_cache_is_found_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--some--model" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "generation_config.json").write_text(json.dumps(SAMPLED))
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("abc")
    assert sampling_of("--model", "some/model")[0] == Sampling(temperature=0.6, top_p=0.9)


def test_settings_that_cannot_be_used_are_told_with_the_file_and_the_way_round(model):
    (model / "generation_config.json").write_text(json.dumps({**SAMPLED, "temperature": 3}))
    with pytest.raises(SpecError, match=r"generation_config\.json: temperature is 3: must be from 0 to 2") as told:
        sampling_of("--model", str(model))
    assert told.value.hint == "give `--temperature` yourself"
    assert sampling_of("--model", str(model), "--temperature", "1")[0].temperature == 1.0
    for text in ("{", "[]"):
        (model / "generation_config.json").write_text(text)
        with pytest.raises(SpecError, match=r"cannot read `.*generation_config\.json`"):
            read_generation_config(model)


def test_what_it_is_in_few_words():
    assert Sampling(seed=3).describe() == "temperature 0"
    assert Sampling(repetition_penalty=1.1).describe() == "temperature 0, repetition_penalty 1.1"
    assert Sampling(0.6, top_p=0.9).describe() == "temperature 0.6, top_p 0.9"


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("--logit-bias", '{"5": 2, "1": -100}', ((1, -100.0), (5, 2.0))),
        ("--logit-bias", "{}", ()),
        ("--bad-words", "as an AI,sorry", ("as an AI", "sorry")),
        ("--bad-words", '["one, two", "[x]"]', ("one, two", "[x]")),
    ],
)
def test_lists_are_written_as_json_or_by_commas(option, text, value):
    name = option.strip("-").replace("-", "_")
    assert getattr(sampling_of("--model", "some/model", option, text)[0], name) == value


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        ("logit_bias", "{", "is not a JSON object of token ids and numbers"),
        ("logit_bias", "[5]", "is not a JSON object"),
        ("logit_bias", {"a": 1}, "is not a JSON object"),
        ("logit_bias", {"5": "x"}, "is not a JSON object"),
        ("logit_bias", {"5": 101}, "logit_bias: the bias of token 5 is 101: must be from -100 to 100"),
        ("logit_bias", '{"5": NaN}', "logit_bias: the bias of token 5 is nan"),
        ("logit_bias", {"-1": 1}, "logit_bias: token is -1"),
        ("logit_bias", {str(token): 1 for token in range(1025)}, "logit_bias has 1,025 tokens: at most 1,024"),
        ("bad_words", ["a", 5], "is not a JSON array of texts"),
        ("bad_words", ["a", " "], "bad_words: a text is empty"),
        ("bad_words", ["a"] * 65, "bad_words has 65 texts: at most 64"),
        ("top_k", [5], "column `top_k`: `[5]` cannot be used"),
    ],
)
def test_lists_that_cannot_be_used_are_refused_by_row(column, cell, said):
    plan = PromptPlan(["prompt", column], GenerationSpec())
    with pytest.raises(SpecError, match=re.escape(said)):
        plan.read(["Hi", cell])


def test_a_row_sets_lists_as_json_values_or_as_their_text():
    plan = PromptPlan(["prompt", "logit_bias", "bad_words"], GenerationSpec())
    for cells in (["Hi", {"5": 2}, ["no"]], ["Hi", '{"5": 2}', '["no"]'], ["Hi", '{"5": 2}', "no"]):
        assert plan.read(cells).overrides == {"logit_bias": ((5, 2.0),), "bad_words": ("no",)}


def test_a_model_whose_files_are_elsewhere_is_greedy_and_that_is_said():
    sampling, err = sampling_of("--model", "some/model")
    assert sampling == Sampling()
    assert "the model's files are not on this machine" in err
    assert sampling_of("--model", "some/model", "--temperature", "0") == (Sampling(), "")


def test_settings_that_are_not_done_are_named_and_those_that_change_nothing_are_not(model):
    (model / "generation_config.json").write_text(
        json.dumps({"num_beams": 4, "typical_p": 1.0, "bad_words_ids": [[5]], "min_length": 0, "top_h": None})
    )
    said = "the model's generation_config sets what Endmark does not do: `num_beams`, `bad_words_ids`\n"
    assert sampling_of("--model", str(model)) == (Sampling(), said)
