"""From the options of a command line to the spec of a job."""

import json
import shlex

import click
import pytest
from click.testing import CliRunner

from endmark.cli.advice import spec_options_of
from endmark.cli.options import build_spec, model_name, spec_options
from endmark.jobs.errors import SpecError
from endmark.jobs.sampling import Sampling
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies

pytestmark = pytest.mark.unit


def spec_of(*words):
    @click.command()
    @spec_options
    def command(**options):
        return build_spec(options)

    result = CliRunner().invoke(command, words, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.return_value, result.stderr


def test_the_defaults_are_those_of_the_spec():
    spec, err = spec_of()
    assert spec == GenerationSpec()
    assert f"`{DEMO_MODEL}`" in err


def test_every_option_reaches_the_spec():
    spec, err = spec_of(
        *("--model", "some/model", "--strategy", "stop:text=END", "--strategy", "soft-landing"),
        *("--max-new-tokens", "7", "--temperature", "0.5", "--top-k", "4", "--top-p", "0.9", "--seed", "3"),
        *("--system", "Be brief.", "--prompt-column", "q", "--template", "{q}?", "--trace"),
    )
    assert spec == GenerationSpec(
        model="some/model",
        strategies=build_strategies(["stop:text=END", "soft-landing"]),
        max_new_tokens=7,
        sampling=Sampling(temperature=0.5, top_k=4, top_p=0.9, seed=3),
        system="Be brief.",
        prompt_column="q",
        template="{q}?",
        trace=True,
    )
    assert err == ""


@pytest.mark.parametrize(
    ("words", "strategies"),
    [
        (["--on-truncation", "keep"], ["baseline"]),
        (["--on-truncation", "continue"], ["continue"]),
        (["--on-truncation", "escalate", "--strategy", "soft-landing"], ["soft-landing", "escalate"]),
        (["--on-truncation", "continue", "--strategy", "continue:times=5"], ["continue:times=5"]),
    ],
)
def test_on_truncation_adds_its_strategy_once(words, strategies):
    assert spec_of(*words)[0].strategies == build_strategies(strategies)


def test_folders_are_stored_with_their_whole_path(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "some/Model"}')
    monkeypatch.chdir(tmp_path)
    spec, _ = spec_of("--model", "model")
    assert spec.model == str((tmp_path / "model").resolve())
    spec, _ = spec_of("--model", "some/Model", "--adapter", "./adapter")
    assert spec.adapter == str((tmp_path / "adapter").resolve())
    with pytest.raises(SpecError, match="was trained on `some/Model`, not on `some/other`"):
        spec_of("--model", "some/other", "--adapter", "adapter")
    assert model_name("some/hub-id") == "some/hub-id"
    assert model_name("/on/another/host") == "/on/another/host"


def test_the_name_of_the_bundled_model_is_no_folder(tmp_path, monkeypatch):
    (tmp_path / DEMO_MODEL).mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_name(DEMO_MODEL) == DEMO_MODEL


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "./nowhere"],
        ["--model", "~/nowhere-at-all"],
        ["--model", ""],
        ["--adapter", "nowhere"],
        ["--strategy", "soft-landin"],
        ["--temperature", "-1"],
        ["--max-new-tokens", "0"],
        ["--raw", "--system", "x"],
    ],
)
def test_wrong_options_are_refused(words):
    with pytest.raises(SpecError) as caught:
        spec_of(*words)
    assert str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--model", "some/one", "--raw", "--prompt-column", "ask me", "--seed", "9223372036854775807"],
        ["--temperature", "0.1234567891", "--top-p", "0.9", "--top-k", "40", "--max-new-tokens", "7"],
        ["--system", "Say 'no'.", "--template", "-{a}\n{b}"],
    ],
)
def test_the_options_told_of_a_job_make_the_same_job(words):
    spec, _ = spec_of(*words)
    assert spec_of(*shlex.split(spec_options_of(spec)))[0] == spec


@pytest.mark.parametrize(
    ("config", "words", "told"),
    [
        (None, [], []),
        (None, ["--temperature", "0.7"], ["--temperature", "0.7"]),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, [], []),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, ["--top-p", "1"], ["--top-p", "1.0"]),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, ["--temperature", "0"], None),
        ({"do_sample": "?", "temperature": "?"}, ["--temperature", "0"], None),
    ],
)
def test_a_command_to_copy_leaves_out_what_the_models_files_say(tmp_path, config, words, told):
    """`compare` printed every default of sampling, seven options that nobody had given."""
    (tmp_path / "config.json").write_text("{}")
    if config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(config))
    model = ["--model", str(tmp_path), "--max-new-tokens", "256"]
    spec, _ = spec_of(*model, *words)
    short = shlex.split(spec_options_of(spec, here=True))
    assert spec_of(*short)[0] == spec
    assert told is None or short == model + told


def test_a_folder_or_a_file_that_is_no_model_is_told_before_a_job_is_stored(tmp_path):
    """`--model model.gguf` and a folder without a config were stored, and failed in the worker."""
    with pytest.raises(SpecError, match=r"is no model folder: it holds no `config.json`"):
        model_name(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(SpecError) as caught:
        model_name(str(tmp_path))
    assert "give it as `--adapter`" in caught.value.hint
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(SpecError, match="is a file, and no model folder"):
        model_name(str(tmp_path / "x.gguf"))


def test_an_adapter_that_is_not_there_is_told_what_one_is(tmp_path, monkeypatch):
    """It was to be a folder with the files of a model, or a hub id."""
    monkeypatch.chdir(tmp_path)
    for text in ("./none", "none"):
        with pytest.raises(SpecError, match=f"there is no adapter folder `{text}`") as caught:
            spec_of("--adapter", text)
        assert "adapter_config.json" in caught.value.hint


def test_priorities_are_bounded():
    """A priority that the database cannot hold was told as a bug of Endmark."""
    with pytest.raises(click.UsageError, match="not in the range"):
        spec_of("--priority", "9" * 30)
