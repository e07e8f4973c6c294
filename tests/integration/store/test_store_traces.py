"""EOS probabilities as they are read again: for a report's curves, and as the file of `export --trace`."""

import io
import json
from dataclasses import replace

import pytest

from endmark.db import summaries
from endmark.db.attempts import commit
from endmark.db.export import traces
from endmark.db.jobs import add_rows, begin_job, finish_submission, load_job
from endmark.db.summaries import count_loops, load_traces
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import NOT_NUMBERS, Ending, EosTrace, FinishReason, Outcome, Verdict
from tests.integration.service_fixtures import submit
from tests.integration.store.ledger import MODEL, attempt, execute, take

pytestmark = pytest.mark.integration


def traced(row, probs=None, *, reason="eos", number=1, round=0, **about):
    """What a row has come to in one attempt, with the probabilities of its steps."""
    best = max(probs) if probs else 0.5
    trace = EosTrace(best, probs.index(best) if probs else 3, 7, 2, probs)
    return Outcome(round, (replace(attempt(row, reason, number=number, **about), trace=trace),))


def answered_again(store, row):
    """Let a row have a later result, without a trace and of another ending."""
    execute(
        store,
        "INSERT INTO attempts (job_id, row, attempt, round, final, text, finish_reason, prompt_tokens,"
        " completion_tokens, eos_hidden_steps, strategies)"
        " SELECT job_id, row, 2, 1, final, text, 'eos', 1, 1, 0, '' FROM attempts WHERE row = :row",
        row=row,
    )


@pytest.fixture
def small_steps(monkeypatch):
    """As many rows as ten thousand are read in steps of."""
    monkeypatch.setattr(summaries, "_AT_ONCE", 2)
    monkeypatch.setattr(traces, "_CHUNK", 2)


def test_the_probabilities_of_traced_results_come_back(store, small_steps):
    job = submit(store, ["x"] * 5)
    commit(store, take(store), [traced(row, (0.25, 0.5 + row / 8) if row != 3 else None) for row in range(5)])
    wanted = {row: (0.25, 0.5 + row / 8) for row in (0, 1, 2, 4)}
    assert load_traces(store, job, range(5)) == wanted
    assert load_traces(store, job, [4, 0]) == {0: wanted[0], 4: wanted[4]}
    assert load_traces(store, job, []) == {}
    answered_again(store, 4)
    assert set(load_traces(store, job, range(5))) == {0, 1, 2}


def test_the_file_of_traces_has_a_line_about_the_job_and_one_for_each_row_that_the_model_has_seen(
    store, small_steps
):
    """A row that failed before its first token has none; one whose scores were no numbers has."""
    job = submit(store, [f"prompt {row}" for row in range(6)])
    lease = take(store)
    unseen = replace(attempt(4, "error"), trace=EosTrace())
    broken = replace(
        attempt(5), verdict=Verdict(FinishReason.ERROR, error=f"{NOT_NUMBERS} (NaN) at token 1"), trace=EosTrace()
    )
    seen = [traced(0, (0.25, 0.75)), traced(1), traced(2, (0.5,), reason="length")]
    commit(store, lease, [*seen, Outcome(0, (unseen,)), Outcome(0, (broken,))])
    handle = io.StringIO()
    assert traces.write_traces(handle, store, load_job(store, job)) == 4
    about, *lines = map(json.loads, handle.getvalue().splitlines())
    assert (about["job"], about["model"]) == (job, MODEL)
    assert [line["row"] for line in lines] == [0, 1, 2, 5]
    assert [line["prompt"] for line in lines] == [f"prompt {row}" for row in (0, 1, 2, 5)]
    assert [line["eos_probs"] for line in lines] == [[0.25, 0.75], None, [0.5], None]
    told = [(line["eos_prob_max"], line["eos_step_max"], line["eos_rank_max"]) for line in lines[:3]]
    assert told == [(0.75, 1, 7), (0.5, 3, 7), (0.5, 0, 7)]
    assert [line["finish_reason"] for line in lines] == ["eos", "eos", "length", "error"]


def test_loops_are_counted_among_the_results_that_stand(store):
    job = submit(store, ["x"] * 4)
    commit(store, take(store), [traced(row, reason="length", ending=Ending.LOOP) for row in range(3)])
    assert count_loops(store, job) == 3
    answered_again(store, 1)
    assert count_loops(store, job) == 2
    assert count_loops(store, "absent") == 0


def test_a_trace_of_a_chat_shows_what_was_asked_last(store):
    turns = [("user", "Hi"), ("assistant", "Hello."), ("user", "And now?")]
    chat = [{"role": role, "content": content} for role, content in turns]
    job = begin_job(store, name="chats", spec=GenerationSpec(model=MODEL))
    add_rows(store, job, 0, [json.dumps([chat])])
    finish_submission(store, job, columns=("messages",), total=1, shard_size=1)
    commit(store, take(store), [traced(0, (0.5,))])
    handle = io.StringIO()
    traces.write_traces(handle, store, load_job(store, job))
    assert json.loads(handle.getvalue().splitlines()[1])["prompt"] == "And now?"
