"""Jobs and workers under vLLM's engine: cancelled, drained, with adapters of rows, with a process that hangs."""

import csv
import os
import signal
import urllib.request

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from endmark.db.connection import open_store
from endmark.db.jobs import cancel_job, load_job
from endmark.db.workers import list_workers
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.engines import EngineChoice
from endmark.jobs.launch.workers import WorkerOptions, start_worker
from endmark.jobs.queue import wake
from endmark.jobs.settings import Settings
from endmark.jobs.vocabulary import JobState
from tests.integration.ports import free_port
from tests.integration.service_fixtures import results, shards_of, state_of, submit, wait_until
from tests.integration.test_engine_vllm import FAKES, START, endmark, others
from tests.integration.tiny_model import save_tiny_model

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Where workers find the stand-in for vLLM."""
    monkeypatch.setenv("PYTHONPATH", str(FAKES))
    monkeypatch.syspath_prepend(FAKES)
    return Settings(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", None)


def wait_for_first_row(store, job, worker):
    """Or for the end of the worker."""
    wait_until(lambda: len(results(store, job)) > 0 or not worker.alive, START)


def test_a_job_is_cancelled_and_a_worker_drained_as_under_our_engine(settings, tmp_path):
    model, port = str(save_tiny_model(tmp_path / "model")), free_port()
    options = WorkerOptions(model, gpus="cpu", engine=EngineChoice("vllm"), grace=0.5, metrics_port=port)
    with open_store(settings.database_url) as store, ensure_broker(settings) as broker:
        cancelled = submit(store, [f"place {row}" for row in range(600)], model=model, max_new_tokens=60)
        worker = start_worker(settings, options)
        try:
            wake(broker.url, model, None)
            wait_for_first_row(store, cancelled, worker)
            cancel_job(store, cancelled)
            drained = submit(store, [f"place {row}" for row in range(600)], model=model, max_new_tokens=60)
            wait_for_first_row(store, drained, worker)
            kept = len(results(store, cancelled))
            assert 0 < kept < 600, worker.tail()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                told = answer.read().decode()
            assert 'engine="vllm",model=' in told
            assert "endmark_kv_pages " in told
        finally:
            code = worker.stop(30)
        assert code == 0
        assert len(results(store, cancelled)) == kept, "nothing of a cancelled job is stored any more"
        assert state_of(store, cancelled) is JobState.CANCELLED
        assert 0 < len(results(store, drained)) < 600
        assert {state for state, *_ in shards_of(store, drained)} <= {"done", "queued"}, "no shard is held"
        assert not list_workers(store)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about peft's use
def test_each_row_of_a_file_has_its_own_adapter(tmp_path):
    model = save_tiny_model(tmp_path / "model")
    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        tuned = get_peft_model(
            AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
        )
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        folders.append(tmp_path / f"adapter{seed}")
        tuned.save_pretrained(folders[-1])
    rows, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    named = ["", *map(str, folders), str(tmp_path / "absent")]
    rows.write_text("prompt,adapter\n" + "".join(f"Hi,{name}\n" for name in named * 2))
    words = ["--engine", "vllm", "--max-adapters", "2", "--max-new-tokens", "8"]
    told = endmark(tmp_path / "home", "run", str(rows), "-o", str(out), "--model", str(model), *words)
    with out.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["finish_reason"] == "error" for row in found] == [False, False, False, True] * 2, told.stderr
    assert str(tmp_path / "absent") in found[3]["error"]
    answers = [row["response"] for row in found if row["finish_reason"] != "error"]
    assert len(set(answers[:3])) == 3
    assert answers[:3] == answers[3:]


@pytest.mark.slow
def test_a_second_process_that_hangs_is_ended_and_its_rows_are_done_anew(settings, tmp_path, monkeypatch):
    """A step of vLLM's waits for every process of its group, and would wait for ever."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")  # which no driver is asked for
    model = str(save_tiny_model(tmp_path / "model"))
    options = WorkerOptions(model, gpus="0,1", engine=EngineChoice("vllm", tensor_parallel=2), stall=10.0)
    with open_store(settings.database_url) as store, ensure_broker(settings) as broker:
        job = submit(store, [f"place {row}" for row in range(200)], model=model, max_new_tokens=30)
        worker = start_worker(settings, options)
        try:
            wake(broker.url, model, None)
            wait_for_first_row(store, job, worker)
            pid = int(list_workers(store)[0].worker.rpartition(":")[2])
            hung = others()[pid]
            os.kill(hung, signal.SIGSTOP)
            wait_until(lambda: worker.deaths()[0] > 0 or not worker.alive, START)
            wait_until(lambda: load_job(store, job).state.is_final or not worker.alive, START)
            assert [row for row, *_ in results(store, job)] == list(range(200)), worker.tail()
            assert "the engine has stood still" in worker.deaths()[1]
            assert hung not in others().values()
        finally:
            worker.stop(30)
