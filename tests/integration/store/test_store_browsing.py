"""Rows as a page shows them: by key, by ending, by words, in both directions, against a plain look at all."""

import json
import random
from dataclasses import replace

import pytest

from endmark.db import browsing
from endmark.db.attempts import commit
from endmark.db.browsing import KINDS, Wanted, count_ends, count_kind, find_rows
from endmark.db.export.stream import read_probs, stream_results
from endmark.db.jobs import add_rows, begin_job, finish_submission
from endmark.db.retry import retry_rows
from endmark.db.row_history import row_history
from endmark.db.rows import unfinished_rows
from endmark.db.shards import finish
from endmark.db.summaries import TokenSums, token_sums
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import End, Ending, EosSource, EosTrace, FinishReason, Part
from tests.integration.service_fixtures import submit
from tests.integration.store.ledger import answer, attempt, execute, outcome, rows_of, take

pytestmark = pytest.mark.integration

REASONS = ("eos", "stop_sequence", "repetition", "length", "error")


def filled(store, rows=60, shards=5, seed=1):
    """A job of which most shards are answered, every way to end among them; return its id and how rows ended."""
    rng = random.Random(seed)
    job = submit(store, [f"prompt {row}" for row in range(rows)], shard_size=rows // shards)
    ended = {}
    for _ in range(shards - 1):
        lease = take(store)
        made = []
        for item in unfinished_rows(store, lease):
            reason, source = rng.choice(REASONS), rng.choice(("natural", "forced"))
            ending = rng.choice([Ending.SENTENCE, Ending.PHRASE, Ending.OPEN]) if reason != "error" else None
            made.append(outcome(item.row, reason, source=source, ending=ending, text=f"answer {item.row}"))
            ended[item.row] = made[-1].attempts[-1]
        commit(store, lease, made)
        finish(store, lease)
    return job, ended


def all_of(store, job, total, **wanted):
    """Every row that is found, page by page."""
    found, key = [], None
    while True:
        page = find_rows(store, job, total, Wanted(key=key, limit=7, **wanted))
        assert len(page.rows) <= 7
        found += [row.row for row in page.rows]
        if page.looked_to is None:
            return found
        assert key is None or page.looked_to > key
        key = page.looked_to


def is_of(kind, made):
    """Whether a row belongs to a kind, by the words of the vocabulary alone."""
    if made is None:
        return kind == "waiting"
    end = made.verdict.end
    answered = end.reason.has_answer
    told = {
        "complete": made.complete,
        "incomplete": answered and not made.complete,
        "truncated": end.reason.truncated,
    }
    return told.get(kind, end.name == kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_of_a_kind_are_all_that_ended_so(store, kind):
    job, ended = filled(store)
    assert all_of(store, job, 60, kind=kind) == [row for row in range(60) if is_of(kind, ended.get(row))]


def test_a_row_whose_ending_nobody_knows_is_not_complete(store):
    """`NOT (… ending IN …)` is null for a null, so that such rows were in neither list."""
    job = submit(store, ["x"] * 4)
    answer(store, take(store), "eos", ending=None)
    assert all_of(store, job, 4, kind="incomplete") == [0, 1, 2, 3]


def test_pages_lead_back_to_the_rows_before(store):
    job, _ = filled(store)
    second = find_rows(store, job, 60, Wanted(key=6, limit=7))
    assert [row.row for row in second.rows] == list(range(7, 14))
    first = find_rows(store, job, 60, Wanted(key=7, limit=5, backwards=True))
    assert [row.row for row in first.rows] == [2, 3, 4, 5, 6]
    assert first.looked_to == 2
    start = find_rows(store, job, 60, Wanted(key=2, limit=5, backwards=True))
    assert ([row.row for row in start.rows], start.looked_to) == ([0, 1], None)


@pytest.mark.parametrize("retried", [False, True])
@pytest.mark.parametrize("order", ["longest", "shortest"])
def test_rows_are_ordered_by_the_tokens_of_their_answers(store, order, retried):
    job = submit(store, [f"prompt {row}" for row in range(30)], shard_size=30)
    tokens = {row: row * 7 % 10 for row in range(29)}
    lease = take(store)
    commit(
        store, lease, [outcome(row, "length", tokens=count, ending=Ending.OPEN) for row, count in tokens.items()]
    )
    commit(store, lease, [outcome(29, "error", tokens=0)])
    finish(store, lease)
    if retried:  # the attempts of before are no results any more
        retry_rows(store, job, spec=GenerationSpec(model="m", max_new_tokens=9), reasons=(FinishReason.ERROR,))
        answer(store, take(store), "eos", tokens=99, ending=Ending.SENTENCE)
    tokens[29] = 99 if retried else 0
    wanted = Wanted(order=order, limit=7)
    found = []
    while True:
        page = find_rows(store, job, 30, wanted)
        found += [row.row for row in page.rows]
        if page.looked_to is None:
            break
        wanted = replace(wanted, key=page.rows[-1].row, key_tokens=page.rows[-1].tokens)
    sign = -1 if order == "longest" else 1
    assert found == sorted(tokens, key=lambda row: (sign * tokens[row], row))
    ten = [row.row for row in find_rows(store, job, 30, Wanted("length", "prompt 1", order=order)).rows]
    assert ten == [row for row in found if row in (1, *range(10, 20))]


def test_words_are_looked_for_in_cells_and_answers_as_they_stand(store):
    job = begin_job(store, name="test", spec=GenerationSpec(model="m"))
    cells = [['he said "no"'], ["100 %"], ["a_b"], ["Zürich\nagain"], ["nothing"]]
    add_rows(store, job, 0, [json.dumps(row, ensure_ascii=False) for row in cells])  # as `checked_rows` has them
    finish_submission(store, job, columns=("prompt",), total=5, shard_size=8)
    lease = take(store)
    commit(store, lease, [outcome(4, text="An Answer of 5 % more"), outcome(0, text="x")])
    for words, rows in {
        'said "no"': [0],
        "%": [1, 4],
        "_": [2],
        "ürich\nAGAIN": [3],
        "an answer": [4],
        "!": [],
        "\\": [],
    }.items():
        assert all_of(store, job, 5, words=words) == rows, words
    assert all_of(store, job, 5, words="5 %", kind="waiting") == []


def test_a_search_that_takes_too_long_says_how_far_it_came(store, monkeypatch):
    job, _ = filled(store)
    monkeypatch.setattr(browsing, "_SPAN", 10)
    monkeypatch.setattr(browsing, "_SECONDS", -1.0)
    page = find_rows(store, job, 60, Wanted(words="prompt 59"))
    assert (page.rows, page.looked_to) == ([], 9)
    assert all_of(store, job, 60, words="prompt 59") == [59]
    back = find_rows(store, job, 60, Wanted(words="prompt 1", key=60, backwards=True))
    assert (back.rows, back.looked_to) == ([], 50)


def test_rows_without_one_of_the_kind_are_not_looked_at(store):
    """A million rows of which three failed are found by the counters of their shards."""
    job, ended = filled(store)
    execute(store, "UPDATE shards SET failed = 0 WHERE first_row < 24")
    failed = [row for row, made in ended.items() if made.verdict.finish_reason is FinishReason.ERROR]
    assert all_of(store, job, 60, kind="error") == [row for row in failed if row >= 24]


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_the_attempts_of_a_span_are_read_once(store):
    """SQLite took the bounds of the rows for those of the attempts too: a filter read 10,000 for each row."""
    statement, _ = browsing._statement(store, Wanted("length"))
    values = {"job": "j", "first": 0, "end": 10, "limit": 9}
    plan = rows_of(store, f"EXPLAIN QUERY PLAN {statement}", **values)
    (attempts,) = [line[-1] for line in plan if line[-1].startswith("SEARCH a")]
    assert attempts.endswith("(job_id=? AND row=?)"), attempts


def test_a_row_that_is_asked_again_has_no_result_until_it_has_one(store):
    job = submit(store, ["x"] * 3)
    answer(store, take(store), "length", text="cut", ending=Ending.OPEN)
    retry_rows(store, job, spec=GenerationSpec(model="m", max_new_tokens=9), reasons=(FinishReason.LENGTH,))
    assert all_of(store, job, 3, kind="waiting") == [0, 1, 2]
    assert row_history(store, job, 1).result is None
    answer(store, take(store), "eos", text="whole.", ending=Ending.SENTENCE)
    history = row_history(store, job, 1)
    assert [(item.round, item.final, item.attempt.text) for item in history.attempts] == [
        (0, True, "cut"),
        (1, True, "whole."),
    ]
    assert history.result.text == "whole."
    assert count_ends(store, job) == {End(FinishReason.EOS, EosSource.NATURAL): 3}
    assert [count_kind(store, job, kind) for kind in ("", "complete", "truncated", "waiting")] == [3, 3, 0, 0]


def test_an_attempt_is_read_as_it_was_stored(store):
    job = submit(store, ["x"])
    about = {
        "trimmed_tokens": 2,
        "rewinds": 1,
        "rewound_tokens": 3,
        "valid": False,
        "choice_probs": {"ja": 0.75, "né": 0.25},
        "logprobs": '[["so",-0.5,[["\\u0000é",-0.5]]]]',
    }
    about |= {
        "reasoning": "Well",
        "reasoning_tokens": 2,
        "ended_in": Part.ANSWER,
        "thought_closed": EosSource.FORCED,
        "weights": "vllm: nf4",
        "same_as": 1,
        "cached_tokens": 2,
    }
    made = attempt(0, "stop_sequence", text="so ##", ending=Ending.PHRASE, **about)
    object.__setattr__(made, "trace", EosTrace(0.5, 1, 2, 3, (0.25, 0.5)))
    lease = take(store)
    commit(store, lease, [type(outcome(0))(0, (made,))])
    assert row_history(store, job, 0).result == made
    (found,) = stream_results(store, job)
    values = found.as_dict(["prompt"])
    assert "logprobs" not in values
    (found,) = stream_results(store, job, logprobs=True)
    assert [item["token"] for item in found.as_dict(["prompt"])["logprobs"]] == ["so"]
    assert (values["choice"], values["choice_prob"]) == ("so ##", 0.75)
    assert read_probs(values["choice_probs"]) == {"ja": 0.75, "né": 0.25}
    assert values["weights"] == "vllm: nf4"
    assert row_history(store, job, 1) is None


def test_sums_of_tokens_are_of_the_results_alone(store):
    """Squares of more than 46,340 tokens are no numbers of 32 bits."""
    job = submit(store, ["x"] * 2)
    lease = take(store)
    first, second = attempt(0, "length", tokens=7), attempt(0, "eos", number=2, tokens=60_000)
    commit(store, lease, [type(outcome(0))(0, (first, second)), outcome(1, tokens=3)])
    assert token_sums(store, job) == TokenSums(2, 10, 50, 60_003, 60_000**2 + 9)
