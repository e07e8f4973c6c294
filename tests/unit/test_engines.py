"""Which engine a worker is to run, by its options; what no engine does is refused before anything is loaded."""

import sys

import pytest
from click.testing import CliRunner

from endmark.cli.advice import resume_command, worker_command
from endmark.cli.main import endmark
from endmark.jobs import engines
from endmark.jobs.engines import ANY_ENGINE, EngineChoice
from endmark.jobs.errors import MissingDependency, UsageError
from endmark.jobs.launch.gpus import grouped

pytestmark = pytest.mark.unit


@pytest.fixture
def with_vllm(tmp_path, monkeypatch):
    """A package of that name, which is found and never imported."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert not str(getattr(sys.modules.get("vllm"), "__file__", "")).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("choice", "weights", "name"),
    [
        (ANY_ENGINE, "auto", "auto"),
        (EngineChoice("endmark"), "packed", "endmark"),
        (EngineChoice("vllm"), "auto", "vllm"),
        (EngineChoice(tensor_parallel=2), "auto", "vllm"),
        (EngineChoice(pipeline_parallel=2), "auto", "vllm"),
        (EngineChoice(max_adapters=1), "auto", "vllm"),
        (ANY_ENGINE, "nf4", "vllm"),
        (ANY_ENGINE, "packed", "endmark"),
        (ANY_ENGINE, "16bit", "vllm"),
    ],
)
def test_what_only_one_engine_does_is_its_own(choice, weights, name, with_vllm):
    assert choice.name(weights) == name
    choice.check(weights)


@pytest.mark.parametrize("choice", [EngineChoice("vllm"), EngineChoice(tensor_parallel=2)])
def test_an_engine_that_is_not_installed_is_refused_with_the_line_that_installs_it(choice, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as caught:
        choice.check()
    assert caught.value.hint == "pip install 'endmark[vllm]'"
    assert " ".join(choice.words()) in str(caught.value)
    with pytest.raises(MissingDependency, match="--weights nf4"):
        ANY_ENGINE.check("nf4")


@pytest.mark.parametrize(
    ("choice", "weights", "said"),
    [
        (EngineChoice("endmark", tensor_parallel=2), "auto", "`--tensor-parallel 2`: Endmark's own engine holds"),
        (EngineChoice("endmark", max_adapters=2), "auto", "Endmark's own engine takes one adapter"),
        (EngineChoice("endmark"), "nf4", "the engine `endmark` has no `--weights nf4`"),
        (EngineChoice("vllm"), "packed", "the engine `vllm` has no `--weights packed`"),
        (EngineChoice("vlm"), "auto", "there is no engine `vlm`"),
    ],
)
def test_options_that_do_not_go_together_are_refused(choice, weights, said, with_vllm):
    with pytest.raises(UsageError, match=said) as caught:
        choice.check(weights)
    assert caught.value.hint


def test_several_hosts_hold_one_model_where_it_has_several_gpus_and_ray_is_there(with_vllm, monkeypatch):
    """In a process that sees all GPUs of its host; Ray gives out those of the others."""
    with pytest.raises(UsageError, match="spreads one model over several GPUs"):
        EngineChoice("vllm", executor="ray").check()
    with pytest.raises(UsageError, match="spreads one model over several GPUs"):
        EngineChoice("endmark", tensor_parallel=2, executor="ray").check()
    choice, found = EngineChoice(tensor_parallel=8, executor="ray"), engines.find_spec
    with pytest.raises(UsageError, match="needs Ray") as caught:
        choice.check()
    assert "pip install 'ray" in caught.value.hint
    monkeypatch.setattr(engines, "find_spec", lambda name: name == "ray" or found(name))
    choice.check()
    assert choice.name() == "vllm"
    assert grouped(["0", "1"], choice) == ["0,1"]
    with pytest.raises(UsageError, match="there are none"):
        grouped(None, choice)


def test_the_options_come_back_as_they_are_typed():
    assert ANY_ENGINE.words() == []
    words = EngineChoice("vllm", 2, 4, 3, "ray").words()
    said = "--engine vllm --tensor-parallel 2 --pipeline-parallel 4 --max-adapters 3 --executor ray"
    assert words == said.split()


def test_a_command_that_goes_on_names_the_engine_again():
    """`resume --run` of a model that one card cannot hold would have loaded it on one."""
    words = EngineChoice("vllm", 2).words()
    ends = "--engine vllm --tensor-parallel 2"
    assert resume_command("3f2a", "my file.csv", words) == f"endmark resume 3f2a --run {ends} -o 'my file.csv'"
    assert worker_command("m", None, words) == f"endmark worker --model m {ends}"


@pytest.mark.parametrize("command", ["run x.csv -o -", "resume latest --run -o -", "ask Hi", "estimate x.csv"])
def test_the_commands_that_run_rows_take_the_engine(command, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    result = CliRunner().invoke(endmark, [*command.split(), "--tensor-parallel", "2"])
    assert isinstance(result.exception, MissingDependency), result.output


def test_each_process_has_a_group_of_gpus():
    """A model of two cards and five cards: two processes, and a card that is left over."""
    five = ["0", "1", "2", "3", "GPU-abc"]
    assert grouped(five, ANY_ENGINE) == five
    assert grouped(None, ANY_ENGINE) is None
    assert grouped(five, EngineChoice(tensor_parallel=2)) == ["0,1", "2,3"]
    assert grouped(five, EngineChoice(pipeline_parallel=4)) == ["0,1,2,3"]
    for gpus, said in ((five, "needs 8 GPUs for one model, and there are 5"), (None, "there are none")):
        with pytest.raises(UsageError, match=said):
            grouped(gpus, EngineChoice(tensor_parallel=4, pipeline_parallel=2))
