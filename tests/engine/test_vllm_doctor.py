"""The doctor under vLLM's engine, as the stand-in of tests/fakes has it."""

import json

import pytest

from endmark.jobs.engines import OWN, VLLM
from endmark.worker.doctor.__main__ import main
from tests.engine.test_doctor import save_model
from tests.engine.test_vllm_engine import PACKAGE

pytestmark = pytest.mark.engine


@pytest.fixture
def examine(tmp_path, monkeypatch, capsys):
    """Examine a folder whose end ids disagree under an engine; return what is told as JSON."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    model = save_model(tmp_path)

    def found(engine):
        assert main([model, "--rows=3", "--max-new-tokens=24", f"--engine={engine}", "--temperature=0"]) == 0
        return json.loads(capsys.readouterr().out)

    return found


def test_the_doctor_finds_the_same_under_both_engines(examine):
    """Its facts are of the files, and its sample is drawn by the same code; commands ask for the engine again."""
    own, other = examine(OWN), examine(VLLM)
    assert "end ids disagree" in {finding["check"] for finding in other["findings"]}
    assert [finding["check"] for finding in other["findings"]] == [finding["check"] for finding in own["findings"]]
    assert len(other["rows"]) == len(own["rows"]) == 3
    commands = [finding["command"] for finding in other["findings"] if finding["command"]]
    assert any("--engine vllm" in command for command in commands)


def test_a_comparison_with_sixteen_bits_is_refused_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(PACKAGE))
    assert main([str(tmp_path / "absent"), "--engine=vllm", "--compare-precision"]) == 2
    assert "`--compare-precision` is of Endmark's own engine" in capsys.readouterr().err
