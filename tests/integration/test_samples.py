"""Several answers of a prompt in the ledger: rows asked again alone, and one line a request in the service."""

import pytest

from endmark.cli.submission import submit_rows
from endmark.db.export import stream_results
from endmark.db.export.stream import COLUMNS, rows_of_part, stream_batches
from endmark.db.jobs import count_prompts, retry_rows
from endmark.jobs.datasets.rows import RowsDataset
from endmark.jobs.sampling import Sampling
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import FinishReason
from tests.integration.serve_fixtures import requests, serving
from tests.integration.store.ledger import answer_all, commit, finish, outcome, take

pytestmark = pytest.mark.integration
SPEC = GenerationSpec(model="m", samples=3, sampling=Sampling(temperature=1.0))


def results(store, job):
    """The exported rows as (row, prompt, sample, response)."""
    at = [COLUMNS.index(name) for name in ("sample", "response")]
    return [
        (item.row, item.cells[0], *(item.values[index] for index in at)) for item in stream_results(store, job)
    ]


def test_answers_are_rows_of_their_own_and_asked_again_alone(store):
    with RowsDataset([{"prompt": "a"}, {"prompt": "b", "samples": 1}]) as dataset:
        job = submit_rows(store, dataset, SPEC, name="test")
    assert (job.total, count_prompts(store, job.job_id)) == (4, 2)
    lease = take(store)
    outcomes = [outcome(row, "length" if row == 1 else "eos", text=f"first {row}") for row in range(4)]
    commit(store, lease, outcomes)
    finish(store, lease)
    rows = [(0, "a", 0, "first 0"), (1, "a", 1, "first 1"), (2, "a", 2, "first 2"), (3, "b", None, "first 3")]
    assert results(store, job.job_id) == rows
    retry_rows(store, job.job_id, spec=SPEC, reasons={FinishReason.LENGTH})
    assert answer_all(store, text="again") == [1]
    rows[1] = (1, "a", 1, "again")
    assert results(store, job.job_id) == rows


def test_answers_of_one_prompt_are_in_one_part(store):
    """A line of the Batch API has all of them: cut apart they would be two."""
    with RowsDataset([{"prompt": "a"}, {"prompt": "b", "samples": 1}, {"prompt": "c"}]) as dataset:
        job = submit_rows(store, dataset, SPEC, name="test").job_id  # rows 0 to 2, 3, and 4 to 6
    parts = [[rows_of_part(store, job, number, count) for number in range(1, count + 1)] for count in (1, 2, 4)]
    assert parts[0] == [range(7)]
    assert parts[1] == [range(3), range(3, 7)]
    assert parts[2] == [range(3), range(3, 3), range(3, 7), range(7, 7)]
    for found in parts[2]:
        assert [item.row for batch in stream_batches(store, job, rows=found) for item in batch.results()] == [
            *found
        ]


def test_a_request_with_several_answers_is_one_of_the_batch(store, tmp_path):
    """Its answers were no requests of their own: the counts are of requests, and so are the lines of the files."""
    with serving(store, tmp_path / "serve") as service:
        batch_id = service.create(service.upload(requests(2, n=3, temperature=1)))
        assert service.until(batch_id, "in_progress")["request_counts"] == {
            "total": 2,
            "completed": 0,
            "failed": 0,
        }
        lease = take(store)
        ends = ["eos", "error", "length", "error", "error", "error"]
        commit(store, lease, [outcome(row, reason, text=f"{row}") for row, reason in enumerate(ends)])
        finish(store, lease)
        batch = service.until(batch_id, "completed")
        assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
        (line,) = service.lines(batch["output_file_id"])
        (failed,) = service.lines(batch["error_file_id"])
    choices = line["response"]["body"]["choices"]
    assert [(item["index"], item["message"]["content"]) for item in choices] == [(0, "0"), (2, "2")]
    assert failed["custom_id"] == "r1"
