"""Jobs as their user steers them: found, looked at, retried, exported while workers write."""

import csv
import threading

import pytest
from sqlalchemy import make_url

from endmark.db.attempts import commit
from endmark.db.connection import Store
from endmark.db.counting import recount
from endmark.db.export import export_job, stream_results
from endmark.db.export.stream import COLUMNS
from endmark.db.jobs import cancel_job, load_job, pause_job, resolve_job, resume_job, retry_rows
from endmark.db.migrations import migrate
from endmark.db.progress import all_statuses, job_status, listed_statuses
from endmark.db.rows import unfinished_rows
from endmark.db.shards import finish
from endmark.db.summaries import commonest_error
from endmark.db.workers import ALIVE_SECONDS, report_worker
from endmark.jobs.errors import Interrupted, JobNotFound, JobStateError
from endmark.jobs.progress import WorkerReport
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import Ending, EosSource, FinishReason, JobState, Part
from tests.integration.service_fixtures import submit
from tests.integration.store.ledger import (
    MODEL,
    answer,
    answer_all,
    counters,
    execute,
    outcome,
    recounted,
    rows_of,
    take,
)

pytestmark = pytest.mark.integration

NEW = GenerationSpec(model="m", max_new_tokens=99)
LONG = (FinishReason.LENGTH, FinishReason.REPETITION)


def mixed(store, rows=12):
    """A finished job every third row of which is truncated."""
    job = submit(store, ["x"] * rows, shard_size=4)
    while (lease := take(store)) is not None:
        commit(
            store,
            lease,
            [
                outcome(row, "eos" if row % 3 else "length", text=f"first {row}")
                for row in range(lease.first_row, lease.end_row)
            ],
        )
        finish(store, lease)
    return job


def answers(store, job, **options):
    """The exported rows as (row, response, finish_reason, attempts)."""
    return [
        (item.row, *(item.values[COLUMNS.index(name)] for name in ("response", "finish_reason", "attempts")))
        for item in stream_results(store, job, **options)
    ]


def test_truncated_rows_are_asked_again_and_the_others_stay(store):
    job = mixed(store)
    keys = retry_rows(store, job, spec=NEW, reasons=LONG)
    assert len(keys) == 3
    assert load_job(store, job).state is JobState.QUEUED
    assert load_job(store, job).spec == NEW
    assert job_status(store, job).pending == 4
    assert counters(store, job) == recounted(store, job)
    with pytest.raises(JobStateError):
        retry_rows(store, job, spec=NEW, reasons=LONG)
    assert sorted(answer_all(store, text="second")) == [0, 3, 6, 9]
    assert load_job(store, job).state is JobState.COMPLETED
    assert counters(store, job) == recounted(store, job)
    assert answers(store, job) == [
        (row, f"first {row}", "eos", 1) if row % 3 else (row, "second", "eos", 2) for row in range(12)
    ]
    assert rows_of(store, "SELECT count(*) FROM attempts") == [(16,)]
    assert retry_rows(store, job, spec=NEW, reasons=LONG) == []
    assert load_job(store, job).state is JobState.COMPLETED


def test_rows_that_ended_in_their_thought_are_counted_and_asked_again(store):
    """Whatever ended them: an EOS inside a thought is no truncation, and leaves no answer all the same."""
    job = submit(store, ["x"] * 4)
    parts = [Part.REASONING, Part.REASONING, Part.ANSWER, Part.ANSWER]
    commit(
        store,
        take(store),
        [
            outcome(
                row,
                "length" if row % 2 else "eos",
                text="" if part is Part.REASONING else "Yes.",
                ending=Ending.EMPTY if part is Part.REASONING else Ending.SENTENCE,
                reasoning="Hm.\0",
                reasoning_tokens=row,
                ended_in=part,
                thought_closed=EosSource.FORCED if part is Part.ANSWER else None,
            )
            for row, part in enumerate(parts)
        ],
    )
    assert counters(store, job) == recounted(store, job)
    status = job_status(store, job)
    assert (status.ended_in_reasoning, status.reasoning_tokens, status.complete) == (2, 6, 2)
    found = [dict(zip(COLUMNS, item.values, strict=True)) for item in stream_results(store, job)]
    assert [item["reasoning"] for item in found] == ["Hm."] * 4
    assert [item["ended_in"] for item in found] == ["reasoning", "reasoning", "answer", "answer"]
    assert [item["thought_closed"] for item in found] == [None, None, "forced", "forced"]
    with store.writer.begin() as connection:
        recount(connection, job, [0])
    assert counters(store, job) == recounted(store, job)
    execute(store, "UPDATE shards SET state = 'done'")
    execute(store, "UPDATE jobs SET state = 'completed', started_at = 1, finished_at = 2")
    assert retry_rows(store, job, spec=NEW, reasons=[FinishReason.LENGTH], in_thought=True)
    assert rows_of(store, "SELECT row FROM rows WHERE round = 1 ORDER BY row") == [(0,), (1,), (3,)]


def test_the_time_before_a_retry_is_no_time_at_work(store):
    """A job retried on the next day showed 0 tokens/s: its tokens were shared among all the hours between."""
    job = mixed(store)
    execute(
        store,
        f"UPDATE jobs SET started_at = {store.now} - 90010, finished_at = {store.now} - 90000 WHERE id = :job",
        job=job,
    )
    before = job_status(store, job).tokens_per_second
    retry_rows(store, job, spec=NEW, reasons=LONG)
    answer_all(store, text="second")
    after = job_status(store, job)
    assert after.state is JobState.COMPLETED
    assert after.completion_tokens / (10 + 600) < after.tokens_per_second <= before


def test_a_retry_that_is_cancelled_leaves_the_earlier_answers(store):
    job = mixed(store)
    before = answers(store, job)
    retry_rows(store, job, spec=NEW, reasons=LONG)
    lease = take(store)
    commit(store, lease, [outcome(0, "eos", round=1, number=2, text="second")])
    cancel_job(store, job)
    assert answers(store, job) == [(0, "second", "eos", 2), *before[1:]]
    assert counters(store, job) == recounted(store, job)
    assert job_status(store, job).cancelled == 0


def test_cancelled_rows_can_be_asked_again(store):
    job = submit(store, ["x"] * 8, shard_size=4)
    answer(store, take(store))
    cancel_job(store, job)
    status = job_status(store, job)
    assert (status.state, status.succeeded, status.cancelled, status.pending) == (JobState.CANCELLED, 4, 4, 0)
    assert {reason for _, _, reason, _ in answers(store, job)[4:]} == {"cancelled"}
    assert retry_rows(store, job, spec=NEW, reasons=[FinishReason.CANCELLED])
    assert answer_all(store) == [4, 5, 6, 7]
    assert load_job(store, job).state is JobState.COMPLETED


def test_what_cannot_be_done_is_refused_with_the_fix(store):
    job = submit(store, ["x"])
    pause_job(store, job)
    with pytest.raises(JobStateError, match="is paused already") as caught:
        pause_job(store, job)
    assert "endmark resume" in caught.value.hint
    ended = submit(store, ["x"])
    cancel_job(store, ended)
    with pytest.raises(JobStateError, match="is cancelled already"):
        cancel_job(store, ended)
    with pytest.raises(JobStateError, match="is cancelled and cannot be paused"):
        pause_job(store, ended)
    resume_job(store, job)
    resume_job(store, job)  # one that was interrupted is resumed too
    answer_all(store)
    for change in (pause_job, resume_job, cancel_job):
        with pytest.raises(JobStateError, match="is completed") as caught:
            change(store, job)
        assert "endmark export" in caught.value.hint
        with pytest.raises(JobNotFound):
            change(store, "absent")


def test_a_job_is_found_by_the_beginning_of_its_id(store):
    for name in ("aaaa0001", "aaab0002"):
        job = submit(store, [])
        execute(store, "DELETE FROM specs WHERE job_id = :job", job=job)
        execute(store, "UPDATE jobs SET id = :name WHERE id = :job", name=name, job=job)
    assert resolve_job(store, "aaaa") == "aaaa0001"
    assert resolve_job(store, "latest") == "aaab0002"
    for wanted in ("aaa", "b", "", "%", "aaaa00011"):
        with pytest.raises(JobNotFound):
            resolve_job(store, wanted)


def test_status_of_a_running_job(store):
    job = submit(store, ["x"] * 10, shard_size=4)
    lease = take(store)
    commit(store, lease, [outcome(0), outcome(1, "error")])
    status = job_status(store, job)
    assert (status.state, status.succeeded, status.failed) == (JobState.RUNNING, 1, 1)
    assert (status.running, status.pending) == (2, 6)
    assert [item.id for item in all_statuses(store)] == [job]
    with pytest.raises(JobNotFound):
        job_status(store, "absent")


def test_a_job_says_how_long_the_worker_that_holds_its_rows_has_been_silent(store):
    job, other = submit(store, ["x"] * 4, shard_size=4), submit(store, ["x"] * 4, shard_size=4)
    for name in ("host:1", "host:2"):
        report_worker(store, WorkerReport(name, "cpu", MODEL, None, "packed", 100.0))
    assert job_status(store, job).silent_seconds is None
    take(store, "host:1")
    assert job_status(store, job).silent_seconds is None
    execute(store, f"UPDATE workers SET heartbeat = {store.now} - 40 WHERE worker = 'host:1'")
    assert 40 <= job_status(store, job).silent_seconds < 60  # though another worker of the model is well
    assert job_status(store, other).silent_seconds is None
    execute(store, "DELETE FROM workers WHERE worker = 'host:1'")
    assert job_status(store, job).silent_seconds == ALIVE_SECONDS


def test_an_export_while_workers_write_is_in_order_and_each_row_whole(store, tmp_path):
    total = 3000
    job = submit(store, [f'a "prompt",\n{row}' for row in range(total)], shard_size=50)
    failures = []

    def work(name):
        try:
            while (lease := take(store, name)) is not None:
                for item in unfinished_rows(store, lease):
                    if item.row % 10 == 0:
                        batch = range(item.row, item.row + 10)
                        commit(store, lease, [outcome(row, text=f"answer {row}\n") for row in batch])
                finish(store, lease)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"host:{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    answered = []
    while True:
        alive = any(thread.is_alive() for thread in threads)
        assert export_job(store, job, tmp_path / "out.csv") == total
        with (tmp_path / "out.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        assert [int(item["row"]) for item in found] == list(range(total))
        for row, item in enumerate(found):
            assert item["prompt"] == f'a "prompt",\n{row}'
            assert (item["response"], item["finish_reason"]) in ((f"answer {row}\n", "eos"), ("", ""))
        answered.append(sum(bool(item["response"]) for item in found))
        if not alive:
            break
    assert not failures
    assert answered == sorted(answered)
    assert answered[-1] == total
    assert len(answered) > 1


def test_an_interrupted_export_leaves_what_was_there(store, tmp_path):
    job = submit(store, ["x"] * 5000)
    (tmp_path / "out.csv").write_text("before")

    def stop(_):
        raise Interrupted("enough")

    with pytest.raises(Interrupted):
        export_job(store, job, tmp_path / "out.csv", on_progress=stop)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "before"


def test_an_export_says_how_far_it_is_and_how_many_rows_it_wrote(store, tmp_path):
    job, told = submit(store, ["x"] * 2500), []
    assert export_job(store, job, tmp_path / "out.csv", on_progress=told.append) == 2500
    assert len(told) > 1
    assert told == sorted(set(told))
    assert told[-1] == 2500


def test_only_some_rows_are_exported_on_request(store):
    job = submit(store, ["x"] * 6)
    lease = take(store)
    reasons = ["eos", "length", "error", "stop_sequence", "repetition"]
    endings = {"eos": Ending.PHRASE, "length": Ending.OPEN, "stop_sequence": Ending.SENTENCE, "repetition": None}
    commit(store, lease, [outcome(row, reason, ending=endings.get(reason)) for row, reason in enumerate(reasons)])
    found = {
        only: [row for row, *_ in answers(store, job, only=only)] for only in ("truncated", "failed", "complete")
    }
    assert found == {"truncated": [1, 4], "failed": [2], "complete": [0, 3]}
    cut = COLUMNS.index("truncated")
    assert [item.values[cut] for item in stream_results(store, job)] == [False, True, False, False, True, None]


def test_endings_are_stored_counted_and_worked_out_for_rows_of_before(store):
    """A row that an older version stored has no ending; its text says it at export."""
    job = submit(store, ["x"] * 4)
    lease = take(store)
    texts = ["Yes. So", "- a\n- b\n", "All is well.", "Paris"]
    endings = [Ending.OPEN, Ending.ITEM, None, None]
    reasons = ["length", "length", "eos", "eos"]
    stored = [
        outcome(row, reasons[row], text=texts[row], ending=endings[row], trimmed_tokens=row) for row in range(4)
    ]
    commit(store, lease, stored)
    assert counters(store, job) == recounted(store, job)
    assert job_status(store, job).complete == 1
    found = [dict(zip(COLUMNS, item.values, strict=True)) for item in stream_results(store, job)]
    assert [item["ending"] for item in found] == ["open", "item", "sentence", "phrase"]
    assert [item["complete"] for item in found] == [False, True, True, True]
    assert [item["trimmed_tokens"] for item in found] == [0, 1, 2, 3]
    with store.writer.begin() as connection:
        recount(connection, job, [0])
    assert counters(store, job) == recounted(store, job)


def test_an_upgrade_works_out_the_endings_of_the_answers_that_are_there(empty_database_url):
    """Jobs of before keep their rows, and are counted as new ones are."""
    with Store(make_url(empty_database_url)) as store:
        with store.writer.begin() as connection:
            migrate(connection, "0004")
        execute(
            store,
            "INSERT INTO jobs (id, name, state, priority, model, columns, total, created_at, updated_at)"
            " VALUES ('old', 'old', 'running', 0, 'm', '[\"prompt\"]', 4, 1, 1)",
        )
        execute(store, "INSERT INTO specs (job_id, round, spec) VALUES ('old', 0, :spec)", spec=NEW.to_json())
        execute(
            store,
            "INSERT INTO shards (job_id, shard, first_row, end_row, state) VALUES ('old', 0, 0, 4, 'queued')",
        )
        answers = [("Yes. So", "length"), ("- a\n- b\n", "length"), ("All is well.", "error"), ("Paris", "eos")]
        for row, (said, reason) in enumerate(answers):
            execute(store, "INSERT INTO rows (job_id, row, cells, round) VALUES ('old', :row, '[]', 0)", row=row)
            execute(
                store,
                "INSERT INTO attempts (job_id, row, attempt, round, final, text, finish_reason, eos_source,"
                " prompt_tokens, completion_tokens, eos_hidden_steps, strategies)"
                " VALUES ('old', :row, 1, 0, true, :said, :reason, :source, 1, 1, 0, '')",
                row=row,
                said=said,
                reason=reason,
                source="natural" if reason == "eos" else None,
            )
        with store.writer.begin() as connection:
            migrate(connection)
        assert rows_of(store, "SELECT ending FROM attempts ORDER BY row") == [
            ("open",),
            ("item",),
            (None,),
            ("phrase",),
        ]
        assert counters(store, "old")["complete"] == 2


def test_the_commonest_error_is_of_results_that_stand(store):
    """An error of an attempt that a retry has replaced is nobody's any more."""
    job = submit(store, ["x"] * 6)
    assert commonest_error(store, job) is None
    commit(store, take(store), [outcome(row, "error" if row < 5 else "eos") for row in range(6)])
    execute(store, "UPDATE attempts SET error = 'no such turn' WHERE row > 2 AND error IS NOT NULL")
    assert commonest_error(store, job) == ("too long", 3)
    assert commonest_error(store, "absent") is None
    execute(
        store,
        "INSERT INTO attempts (job_id, row, attempt, round, final, text, finish_reason, prompt_tokens,"
        " completion_tokens, eos_hidden_steps, strategies)"
        " SELECT job_id, row, 2, 1, final, text, 'eos', 1, 1, 0, '' FROM attempts WHERE row < 2",
    )
    assert commonest_error(store, job) == ("no such turn", 2)


def test_cells_that_a_spreadsheet_would_run_are_defused(store, tmp_path):
    job = submit(store, ["=1+1", "+cmd|' /C calc'!A0", "-12.5", "@sum", "plain", "\tx"])
    lease = take(store)
    commit(store, lease, [outcome(row, text="=HYPERLINK(1)") for row in range(6)])
    execute(store, """UPDATE jobs SET columns = '["=prompt"]'""")
    export_job(store, job, tmp_path / "out.csv", excel_safe=True)
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *found = list(csv.reader(file))
    assert header[:2] == ["row", "'=prompt"]
    assert [line[1] for line in found] == ["'=1+1", "'+cmd|' /C calc'!A0", "-12.5", "'@sum", "plain", "'\tx"]
    assert {line[header.index("response")] for line in found} == {"'=HYPERLINK(1)"}
    export_job(store, job, tmp_path / "out.csv")
    assert "'=" not in (tmp_path / "out.csv").read_text()


def test_jobs_are_listed_some_at_a_time_those_that_go_on_first(store):
    """The page of 2,000 jobs was 1.2 MB, and each open tab had it made anew every second."""
    jobs = [submit(store, ["a"], name=f"Night_{number}") for number in range(5)]
    for job in jobs[2:]:
        cancel_job(store, job)
    listed, total = listed_statuses(store, most=3)
    assert ([item.id for item in listed], total) == ([jobs[1], jobs[0], jobs[4]], 5)
    listed, total = listed_statuses(store, first=3, most=3)
    assert ([item.id for item in listed], total) == ([jobs[3], jobs[2]], 5)
    assert listed_statuses(store, first=5, most=3) == ([], 5)
    assert [item.id for item in listed_statuses(store, words="nIGHT_3", most=3)[0]] == [jobs[3]]
    assert listed_statuses(store, words="Night%", most=3) == ([], 0)
    assert [item.id for item in listed_statuses(store, words=jobs[4], most=3)[0]] == [jobs[4]]
    assert [item.id for item in listed_statuses(store, among=[jobs[0], jobs[2]], most=3)[0]] == [jobs[0], jobs[2]]
    assert listed[0].created_at <= listed[0].finished_at
    assert job_status(store, jobs[0]).finished_at is None
