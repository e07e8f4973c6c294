"""`--dedupe`: rows that ask the same are answered once, wherever they stand and whoever runs them."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from endmark.db.attempts import commit
from endmark.db.export.stream import COLUMNS, stream_results
from endmark.db.jobs import (
    add_rows,
    begin_job,
    cancel_job,
    delete_job,
    finish_submission,
    pause_job,
    resume_job,
    retry_rows,
)
from endmark.db.progress import job_status
from endmark.jobs.sampling import Sampling
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import FinishReason, JobState, Lease, ShardKey
from tests.integration.service_fixtures import (
    ANSWER,
    QUICKLY,
    answer_script,
    gated,
    shards_of,
    state_of,
    submit,
    wait_until,
)
from tests.integration.store.ledger import counters, doubled, execute, outcome, recounted, rows_of

pytestmark = pytest.mark.integration


def counted():
    """A script that counts how often each prompt is begun."""
    begun = Counter()

    def script(tokens):
        data = bytes(token - 1 for token in tokens if 0 < token <= 256)
        if data.endswith(b"[assistant]"):
            begun[data] += 1
        return answer_script(tokens)

    return begun, script


def submit_rows(store, rows, columns, *, shard_size=4, **options):
    """A job with `--dedupe` of rows with columns of their own."""
    spec = GenerationSpec(model="m", dedupe=True, **options)
    job = begin_job(store, name="test", spec=spec)
    add_rows(store, job, 0, [json.dumps(row) for row in rows])
    finish_submission(store, job, columns=columns, total=len(rows), shard_size=shard_size)
    return job


def ended(store, job):
    wait_until(lambda: state_of(store, job).is_final)
    assert doubled(store) == []
    assert counters(store, job) == recounted(store, job)
    return job_status(store, job)


def same_as(store, job):
    place = COLUMNS.index("same_as")
    return [result.values[place] for result in stream_results(store, job)]


def test_each_prompt_is_run_once_by_all_workers_together(store, start):
    """Forty rows of four prompts in ten shards, on two workers; each row has its result, and says whose it is."""
    begun, script = counted()
    job = submit(store, [f"place {row % 4}" for row in range(40)], shard_size=4, dedupe=True)
    for name in ("host:1", "host:2"):
        start(script=script, name=name)
    status = ended(store, job)
    assert list(begun.values()) == [1] * 4
    assert (status.state, status.succeeded, status.deduplicated) == (JobState.COMPLETED, 40, 36)
    assert status.cached_tokens >= status.prompt_tokens * 36 / 40  # those run share the pages of their begin
    found = [result.as_dict(("prompt",)) for result in stream_results(store, job)]
    assert {item["response"] for item in found} == {ANSWER.decode()}
    first = {item["prompt"]: item["row"] for item in found if item["same_as"] is None}
    assert [item["same_as"] for item in found if item["same_as"] is not None] == [
        first[item["prompt"]] for item in found if item["same_as"] is not None
    ]
    assert len(first) == 4


def test_without_the_option_each_row_is_run(store, start):
    begun, script = counted()
    job = submit(store, ["place"] * 6)
    start(script=script)
    assert ended(store, job).deduplicated == 0
    assert list(begun.values()) == [6]


def test_what_is_not_determined_is_run_each_time(store, start):
    """Rows that are drawn, but for those with the same seed of their own; other budgets are other questions."""
    rows = [
        *[["a", "0.7", "", ""]] * 3,
        *[["a", "0.7", "5", ""]] * 3,
        ["a", "0.7", "6", ""],
        *[["a", "", "", ""]] * 3,
        ["a", "", "", "40"],
    ]
    job = submit_rows(store, rows, ("prompt", "temperature", "seed", "max_new_tokens"))
    start()
    assert ended(store, job).deduplicated == 4
    assert [other is not None for other in same_as(store, job)] == [
        *[False] * 3,
        *[False, True, True],
        False,
        *[False, True, True],
        False,
    ]


def test_drawn_rows_with_the_same_seed_hang_on_it_alone(store, start):
    """A row's draw hangs on its number too; under `--dedupe` with a seed of its own it does not."""
    engine, seen = start().service._engine, []
    real = engine.submit
    engine.submit = lambda requests: (seen.extend(requests), real(requests))
    rows = [["a", "5"], ["b", "5"], ["c", ""]]
    ended(store, submit_rows(store, rows, ("prompt", "seed"), sampling=Sampling(temperature=0.7)))
    assert [request.stream for request in seen] == [0, 0, 2]


def test_rows_whose_twin_has_failed_are_run_themselves(store, start):
    """What was wrong there, such as a worker that died of it, need not be wrong here."""
    gate, script = gated()
    job = submit(store, ["place"] * 3, shard_size=1, dedupe=True)
    start(script=script)
    wait_until(lambda: [state for state, *_ in shards_of(store, job)] == ["running"] * 3)
    commit(store, Lease(ShardKey(job, 0), 1, 0, 1, 1, "host:1"), [outcome(0, "error")])
    gate.set()
    status = ended(store, job)
    assert (status.failed, status.succeeded, status.deduplicated) == (1, 2, 0)


def test_rows_that_wait_go_with_their_shard_and_come_back_with_it(store, start):
    """Paused while one runs and others wait for it; then resumed."""
    gate, script = gated()
    job = submit(store, ["place"] * 8, shard_size=2, dedupe=True)
    start(script=script)
    wait_until(lambda: [state for state, *_ in shards_of(store, job)] == ["running"] * 4)
    pause_job(store, job)
    wait_until(lambda: [state for state, *_ in shards_of(store, job)] == ["queued"] * 4)
    gate.set()
    resume_job(store, job)
    assert ended(store, job).deduplicated == 7


def test_a_cancelled_job_is_answered_again_by_retry(store, start):
    gate, script = gated()
    job = submit(store, ["place"] * 6, shard_size=2, dedupe=True)
    worker = start(script=script)
    wait_until(lambda: [state for state, *_ in shards_of(store, job)] == ["running"] * 3)
    cancel_job(store, job)
    gate.set()
    worker.drain()
    assert same_as(store, job) == [None] * 6
    retry_rows(store, job, spec=GenerationSpec(model="m", dedupe=True), reasons=[FinishReason.CANCELLED])
    start()
    status = ended(store, job)
    assert (status.state, status.succeeded, status.deduplicated) == (JobState.COMPLETED, 6, 5)


def test_a_retry_answers_once_in_its_own_round(store, start):
    """Six rows run into their budget, one of them alone; asked again with more, each question is run once more."""
    begun, script = counted()
    job = submit(store, [*["place"] * 5, "other"], shard_size=2, dedupe=True, max_new_tokens=3)
    start(script=script)
    assert ended(store, job).truncated == 6
    spec = GenerationSpec(model="m", dedupe=True, max_new_tokens=50)
    retry_rows(store, job, spec=spec, reasons=[FinishReason.LENGTH])
    status = ended(store, job)
    assert (status.truncated, status.succeeded, status.deduplicated) == (0, 6, 4)
    assert sorted(begun.values()) == [2, 2]


def test_who_waits_too_long_runs_its_rows_itself(store, start):
    """The row that was asked first may stand in a shard that only a worker that holds nothing else can take."""
    job = submit(store, ["place"] * 2, shard_size=1, dedupe=True)
    gate, script = gated()
    stuck = start(script=script, name="stuck:1", pace=replace(QUICKLY, heartbeat=3600.0))
    wait_until(lambda: [state for state, *_ in shards_of(store, job)] == ["running"] * 2)
    stuck.service._draining.set()  # it claims no more
    execute(store, "UPDATE shards SET lease_until = 9e9, lease_seconds = 9e9 WHERE shard = 0")
    execute(store, "UPDATE shards SET lease_until = 0 WHERE shard = 1")
    start(pace=replace(QUICKLY, lease=0.4))
    wait_until(lambda: rows_of(store, "SELECT same_as FROM attempts WHERE row = 1") == [(None,)])
    gate.set()
    stuck.drain(0)


def test_nothing_is_left_of_a_deleted_job(store, start):
    job = submit(store, ["place"] * 4, dedupe=True)
    start()
    ended(store, job)
    assert rows_of(store, "SELECT row FROM askers") == [(0,)]
    delete_job(store, job)
    assert rows_of(store, "SELECT row FROM askers") == []
