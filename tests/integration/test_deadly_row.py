"""A row that kills whatever worker computes it, with real processes: it fails alone, and the worker stays."""

import json

import pytest
from sqlalchemy import text

from endmark.db.connection import open_store
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.launch.workers import WorkerOptions, start_worker
from endmark.jobs.queue import wake
from endmark.jobs.settings import Settings
from endmark.jobs.vocabulary import JobState
from tests.integration.service_fixtures import results, shards_of, state_of, submit, wait_until
from tests.integration.tiny_model import save_tiny_model

pytestmark = pytest.mark.integration

DEADLY = "abracadabra"
# Where the model computes that word, the process is gone at once, as after a fault in a kernel.
CODE = f"""
import os, signal
from transformers import LlamaForCausalLM

WORD = [2 + sorted(__import__("tokenizers").pre_tokenizers.ByteLevel.alphabet()).index(c) for c in "{DEADLY}"]

class DeadlyLlama(LlamaForCausalLM):
    def forward(self, input_ids=None, **options):
        ids = input_ids[0].tolist()
        if any(ids[at : at + len(WORD)] == WORD for at in range(len(ids))):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(input_ids=input_ids, **options)
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A tiny model whose own code dies on one word."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save_tiny_model(tmp_path / "deadly")
    (folder / "modeling_deadly.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_deadly.DeadlyLlama"}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_a_deadly_row_fails_alone_and_its_worker_is_not_given_up(tmp_path, model):
    settings = Settings(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", None)
    prompts = [f"place {row}" for row in range(20)]
    prompts[6] = f"say {DEADLY}"
    options = WorkerOptions(model, gpus="cpu", lease=5.0, trust_remote_code=True)
    with open_store(settings.database_url) as store, ensure_broker(settings) as broker:
        job = submit(store, prompts, model=model, shard_size=2, max_new_tokens=5)
        with store.writer.begin() as connection:  # as if it had killed two workers before
            connection.execute(text("UPDATE shards SET attempts = 2 WHERE shard = 3"))
        wake(broker.url, model, None)
        worker = start_worker(settings, options)
        try:
            wait_until(lambda: state_of(store, job).is_final or not worker.alive, 400)
            assert worker.alive, worker.tail(60)
            assert state_of(store, job) is JobState.COMPLETED_WITH_ERRORS
            found = {row: reason for row, _, reason, _ in results(store, job)}
            assert list(found) == list(range(20))
            assert [row for row, reason in found.items() if reason == "error"] == [6]
            with store.reader.connect() as connection:
                error = connection.execute(text("SELECT error FROM attempts WHERE row = 6 AND final")).scalar_one()
            assert error == "the worker died on this row 3 times, while it ran no other"
            assert {state for state, *_ in shards_of(store, job)} == {"done"}
            # One of its shard, three of its own; the supervisor counts none towards those that came quickly.
            assert worker.log_path.read_text().count("starting it again in 1 s") == 4
        finally:
            worker.stop()
