"""Options that this machine, or other options, exclude: refused before anything is started, loaded or stored."""

import socket
from dataclasses import replace

import pytest
from click.testing import CliRunner

from endmark.cli.main import endmark
from endmark.jobs.engines import EngineChoice, check_device
from endmark.jobs.errors import EndmarkError, UsageError
from endmark.jobs.launch import fitting
from endmark.jobs.launch.fitting import check_fits
from endmark.jobs.launch.workers import WorkerOptions

pytestmark = pytest.mark.unit

ON_CPU = WorkerOptions("m", gpus="cpu")
TWO_CARDS = {"CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.mark.parametrize(
    ("options", "environ", "said"),
    [
        ({"weights": "fp8", "gpus": "cpu"}, TWO_CARDS, "weights in fp8 need a GPU"),
        ({"weights": "fp8-original"}, {"CUDA_VISIBLE_DEVICES": ""}, "weights in fp8 need a GPU"),
        ({"weights": "bf16"}, TWO_CARDS, "`--weights bf16` is for a CPU"),
        ({"kv_cache": "fp8", "gpus": "cpu"}, TWO_CARDS, "a KV cache in fp8 needs a GPU"),
        ({"gpus": "2"}, TWO_CARDS, "there is no GPU `2`"),
        ({"engine": EngineChoice("vllm", 4)}, TWO_CARDS, "needs 4 GPUs for one model, and there are 2"),
        ({"metrics_port": 65535}, TWO_CARDS, "there is no port for each of 2 processes"),
    ],
)
def test_a_worker_that_cannot_run_here_is_refused(options, environ, said):
    """fp8 on a CPU was refused by the worker's process, ten seconds after it had begun to load torch."""
    with pytest.raises(UsageError, match=said) as caught:
        check_fits(replace(WorkerOptions("m"), **options), environ)
    assert caught.value.hint


@pytest.mark.parametrize("weights", ["auto", "packed", "expanded", "fp8", "fp8-original"])
def test_a_card_has_all_but_what_is_for_a_cpu(weights):
    check_fits(WorkerOptions("m", weights=weights, kv_cache="fp8"), TWO_CARDS)
    check_device(weights, "fp8", on_gpu=True)


def test_bf16_needs_a_processor_that_says_it_has_it(tmp_path, monkeypatch):
    """Where it says nothing, torch is asked later."""
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(fitting, "_CPU_INFO", info)
    wanted = replace(ON_CPU, weights="bf16")
    for text in ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", "processor\t: 0\nFeatures: bf16\n"):
        info.write_text(text)
        check_fits(wanted)
    info.write_text("processor\t: 0\nflags\t\t: fpu avx512f\n")
    with pytest.raises(UsageError, match="no products of bf16"):
        check_fits(wanted)
    info.unlink()
    check_fits(wanted)


def test_an_address_for_metrics_is_tried():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port}: Address already in use") as caught:
            check_fits(replace(ON_CPU, metrics_port=port))
        assert "--metrics-port" in caught.value.hint
    check_fits(replace(ON_CPU, metrics_port=port))
    with pytest.raises(UsageError, match=r"cannot serve metrics on 192\.0\.2\.1") as caught:
        check_fits(replace(ON_CPU, metrics_port=port, metrics_host="192.0.2.1"))
    assert "--metrics-host" in caught.value.hint


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("worker --gpus cpu --weights fp8", "weights in fp8 need a GPU"),
        ("worker --gpus cpu --kv-cache fp8", "a KV cache in fp8"),
        ("worker --gpus x", "there is no GPU `x`"),
        ("worker --metrics-host 0.0.0.0", "there are no metrics"),
        ("worker --grace -5", "at least 0"),
        ("worker --stall nan", "at least 1"),
        ("worker --stall inf", "at least 1"),
        ("worker --model /no/such/model", "there is no model folder `/no/such/model`"),
        ("worker --adapter /no/such/adapter", "there is no adapter folder `/no/such/adapter`"),
        ("doctor /no/such/model", "there is no model folder `/no/such/model`"),
        ("doctor demo --adapter /no/such/adapter", "there is no adapter folder `/no/such/adapter`"),
        ("doctor ./no/such/model", "there is no model folder `./no/such/model`"),
        ("serve --engine endmark --tensor-parallel 2", "holds a model on one GPU"),
    ],
)
def test_the_commands_refuse_what_cannot_be(words, said, tmp_path, monkeypatch):
    """A stall of `nan` seconds was taken, and so was a grace of less than none."""
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(endmark, words.split())
    told = str(result.exception) if isinstance(result.exception, EndmarkError) else result.output
    assert result.exit_code, result.output
    assert said in told
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "command",
    ["run x.csv -o -", "resume latest --run -o -", "ask Hi", "estimate x.csv", "compare x.csv -o x.html"],
)
def test_more_gpus_than_there_are_are_refused_before_a_job_is_stored(command, tmp_path, monkeypatch):
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(endmark, [*command.split(), "--tensor-parallel", "2"])
    assert "needs 2 GPUs for one model, and there is 1" in str(result.exception), result.output
    assert not (tmp_path / "home").exists()
