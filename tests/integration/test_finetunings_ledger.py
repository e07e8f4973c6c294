"""Fine-tunings in the ledger on both databases: one holder at a time, taken up again when it dies."""

import time
from dataclasses import replace

import pytest

from endmark.cli.finetune_queued import _wait
from endmark.db.finetunings import (
    add_finetuning,
    cancel_finetuning,
    claim_finetuning,
    due_finetuning,
    end_finetuning,
    finetuning_status,
    release_finetuning,
    report_finetuning,
)
from endmark.jobs.engines import EngineChoice
from endmark.jobs.errors import EndmarkError, JobNotFound, LeaseLost
from endmark.jobs.finetuning.request import FinetuneProgress, FinetuneSpec
from endmark.jobs.launch.workers import WorkerOptions
from endmark.worker.service.handover import Handover

pytestmark = pytest.mark.integration
SPEC = FinetuneSpec(dataset="/d.jsonl", output="/o", model="m")


def claim(store, finetuning, worker="w", **options):
    return claim_finetuning(store, finetuning, model="m", worker=worker, **options)


def test_one_worker_holds_it_until_it_is_done(store):
    finetuning = add_finetuning(store, SPEC)
    assert finetuning_status(store, finetuning).due
    assert due_finetuning(store, "m") == finetuning
    assert due_finetuning(store, "other") is None
    assert claim_finetuning(store, finetuning, model="other", worker="w") is None
    lease = claim(store, finetuning)
    assert lease.spec == SPEC
    assert claim(store, finetuning, "another") is None
    assert due_finetuning(store, "m") is None
    progress = FinetuneProgress("training", 2, 9, 0.5, 7.0, ("note",))
    report_finetuning(store, lease, progress)
    report_finetuning(store, lease, None)
    status = finetuning_status(store, finetuning)
    assert (status.state, status.due, status.progress) == ("running", False, progress)
    end_finetuning(store, lease, None)
    assert finetuning_status(store, finetuning).state == "completed"
    assert claim(store, finetuning) is None


def test_what_a_dead_worker_held_is_taken_up_and_its_late_word_is_refused(store):
    finetuning = add_finetuning(store, SPEC)
    dead = claim(store, finetuning, lease_seconds=-1)
    assert due_finetuning(store, "m") == finetuning
    lease = claim(store, finetuning, "another")
    for late in (
        lambda: report_finetuning(store, dead, FinetuneProgress("training")),
        lambda: end_finetuning(store, dead, None),
        lambda: release_finetuning(store, dead),
    ):
        with pytest.raises(LeaseLost):
            late()
    release_finetuning(store, lease)
    again = claim(store, finetuning)
    end_finetuning(store, again, {"message": "no", "hint": None, "code": 2})
    status = finetuning_status(store, finetuning)
    assert status.state == "failed"
    assert status.is_final
    assert status.error == {"message": "no", "hint": None, "code": 2}


def test_a_worker_of_another_engine_or_with_an_adapter_takes_none(store):
    """vLLM's processes keep the memory of their cards, where this one becomes another for the training."""
    finetuning = add_finetuning(store, SPEC)
    assert not Handover().offer(store, WorkerOptions("m", engine=EngineChoice("vllm")))
    assert not Handover().offer(store, WorkerOptions("m", engine=EngineChoice(tensor_parallel=2)))
    assert not Handover().offer(store, WorkerOptions("m", "/adapter"))
    fallen_back = Handover()
    assert not fallen_back.offer(store, WorkerOptions("other"))
    fallen_back.withdraw()
    add_finetuning(store, replace(SPEC, model="other"))
    fallen_back.look()
    assert fallen_back.finetuning is None
    own = Handover()
    assert own.offer(store, WorkerOptions("m"))
    assert own.finetuning == finetuning


def test_one_that_is_cancelled_is_nobodys(store):
    finetuning = add_finetuning(store, SPEC)
    lease = claim(store, finetuning)
    cancel_finetuning(store, finetuning)
    with pytest.raises(LeaseLost):
        report_finetuning(store, lease, None)
    assert finetuning_status(store, finetuning).state == "cancelled"
    assert due_finetuning(store, "m") is None
    with pytest.raises(JobNotFound):
        finetuning_status(store, "none")


class Crew:
    """A crew whose worker has gone: it counts the looks, and raises where another would be started."""

    alive, broker_url = True, "redis://127.0.0.1:1/0"
    looks = 0

    def served(self):
        self.looks += 1
        return self.looks < 3

    def look_after(self, *, served):
        assert not served
        raise EndmarkError("another worker starts here")


def test_a_command_whose_worker_has_gone_starts_another(store, monkeypatch):
    """The worker that ran already was killed before it took the training, and the command waited for ever."""
    monkeypatch.setattr("endmark.cli.finetune_queued._WORKER_AWAY", 0.5)
    crew, finetuning = Crew(), add_finetuning(store, SPEC)
    began = time.monotonic()
    with pytest.raises(EndmarkError, match="another worker starts here"):
        _wait(store, finetuning, crew, lambda progress: None)
    assert crew.looks > 3
    assert time.monotonic() - began > 0.5
