"""Workers under vLLM's engine, as the stand-in of tests/fakes has it: real processes, ledger and answers."""

import csv
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTJConfig, GptOssConfig

from endmark.db.connection import open_store
from endmark.db.jobs import load_job
from endmark.db.workers import list_workers
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.engines import EngineChoice
from endmark.jobs.launch.workers import WorkerOptions, start_worker
from endmark.jobs.queue import wake
from endmark.jobs.settings import Settings
from tests.integration.ports import free_port
from tests.integration.service_fixtures import results, submit, wait_until
from tests.integration.test_main_job import ENDMARK
from tests.integration.tiny_model import save_tiny_model

pytestmark = pytest.mark.integration

FAKES = Path(__file__).parents[1] / "fakes" / "vllm_package"
START = 120.0  # seconds that a worker may take to load on a busy machine


def refused_model(folder):
    """Save a model whose attention ours has not."""
    save_tiny_model(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    config = GptOssConfig(**sizes, **heads, vocab_size=258, max_position_embeddings=512, eos_token_id=0)
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def endmark(home, *arguments, vllm=True):
    """Run the command where vLLM is installed, or is not; return how it went."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ENDMARK_")}
    environment |= {"ENDMARK_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"PYTHONPATH": str(FAKES)} if vllm else {}
    return subprocess.run([ENDMARK, *arguments], env=environment, text=True, capture_output=True, check=False)


def test_what_ours_refuses_runs_under_vllm_where_that_is_installed(tmp_path):
    """Which engine serves is told on standard error, with the reason, and stands beside each answer.

    So is it that vLLM cannot quantise this kind as it loads it, which stood in the place of the first word.
    """
    model = str(save_tiny_model(tmp_path / "model"))
    config = GPTJConfig(
        vocab_size=258, n_embd=64, n_layer=2, n_head=4, n_positions=256, rotary_dim=8, eos_token_id=0
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt\nHi\nHo\n")
    out = tmp_path / "out.csv"
    told = endmark(tmp_path / "home", "run", str(rows), "-o", str(out), "--model", model, "--max-new-tokens", "8")
    assert told.returncode == 0, told.stderr
    assert "vLLM's engine serves: Endmark cannot run GPTJForCausalLM: transformers does not mark" in told.stderr
    assert "the weights are in 16 bits: vLLM does not quantise this kind of model as it loads it" in told.stderr
    with out.open(newline="") as file:
        assert Counter(row["weights"] for row in csv.DictReader(file)) == {"vllm: fp32": 2}
    assert [path.suffix for path in (tmp_path / "home" / "logs").iterdir()] == [".log"]


def test_where_vllm_is_not_installed_the_refusal_names_the_line_that_installs_it(tmp_path):
    model = refused_model(tmp_path / "model")
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt\nHi\n")
    given = ("--model", model, "--max-new-tokens", "8")
    told = endmark(tmp_path / "home", "submit", str(rows), *given, vllm=False)
    assert told.returncode == 0, "a job is taken: a worker of another host may run it"
    told = endmark(tmp_path / "home", "run", str(rows), "-o", str(tmp_path / "out.csv"), *given, vllm=False)
    assert told.returncode == 1
    assert "takes `s_aux`" in told.stderr
    assert "pip install 'endmark[vllm]'" in told.stderr
    told = endmark(tmp_path / "home", "worker", *given[:2], "--tensor-parallel", "2", vllm=False)
    assert told.returncode == 1
    assert "`--tensor-parallel 2` needs the extra `vllm`" in told.stderr


def test_strategies_are_compared_under_the_engine_that_was_asked_for(tmp_path):
    """The report says what computed the answers, and its commands ask for the engine once more."""
    model, page = str(save_tiny_model(tmp_path / "model")), tmp_path / "report.html"
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt\n" + "".join(f"place {row}\n" for row in range(6)))
    words = ["--model", model, "--engine", "vllm", "--strategy", "soft-landing", "--max-new-tokens", "12"]
    told = endmark(tmp_path / "home", "compare", str(rows), *words, "-o", str(page))
    assert told.returncode == 0, told.stderr
    assert "soft-landing" in told.stdout
    written = page.read_text()
    assert "vllm: nf4" in written
    assert "--engine vllm" in written


def test_the_batch_api_proposes_a_worker_under_the_engine_that_was_asked_for(tmp_path):
    """It loads no model itself, so vLLM need not be installed where it runs."""
    words = ["serve", "--model", "o/m", "--engine", "vllm", "--tensor-parallel", "2", "--port", str(free_port())]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ENDMARK_")}
    environment |= {"ENDMARK_HOME": str(tmp_path / "home")}
    with subprocess.Popen([ENDMARK, *words], env=environment, stderr=subprocess.PIPE, text=True) as service:
        try:
            hint = next((line for line in service.stderr if "no worker runs" in line), "")
        finally:
            service.terminate()
    assert "`endmark worker --model o/m --engine vllm --tensor-parallel 2`" in hint


def others():
    """The processes that the engine of this test has beside the worker's own, by their parents."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, stat = (folder / "cmdline").read_bytes().split(b"\0"), (folder / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"VllmWorker" in words:
            found[int(stat.rpartition(")")[2].split()[1])] = int(folder.name)
    return found


def test_a_model_of_two_cards_whose_second_process_is_killed_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FAKES))
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")  # which no driver is asked for
    model = str(save_tiny_model(tmp_path / "model"))
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", None)
    choice = EngineChoice("vllm", tensor_parallel=2)
    with open_store(settings.database_url) as store, ensure_broker(settings) as broker:
        job = submit(store, [f"place {row}" for row in range(400)], model=model, max_new_tokens=30)
        worker = start_worker(settings, WorkerOptions(model, gpus="0,1,2,3", engine=choice))
        try:
            wake(broker.url, model, None, 2)
            wait_until(lambda: len(list_workers(store)) == 2 or not worker.alive, START)
            assert {item.engine for item in list_workers(store)} == {"vllm"}, worker.tail()
            pids = {int(item.worker.rpartition(":")[2]) for item in list_workers(store)}
            wait_until(lambda: len(results(store, job)) > 0, START)
            held = {parent: child for parent, child in others().items() if parent in pids}
            assert len(held) == 2, "each of the two groups has a second process"
            busy = next(item.worker for item in list_workers(store) if item.shards)
            os.kill(held[int(busy.rpartition(":")[2])], signal.SIGKILL)
            wait_until(lambda: worker.deaths()[0] > 0, START)
            wait_until(lambda: load_job(store, job).state.is_final or not worker.alive, START)
            assert worker.alive, worker.tail()
            assert [row for row, *_ in results(store, job)] == list(range(400))
            count, last = worker.deaths()
            assert count == 1
            assert "its engine broke: RuntimeError: vLLM's engine has died: Executor failed." in last
            assert "gpus 4,5" in last or "gpus 6,7" in last
        finally:
            worker.stop(30)
    assert not {parent for parent in others() if parent in pids}, "they have ended with the workers"
