"""Several answers of one prompt: the rows that they are stored as, what it costs, and their lines in exports."""

import io
import json

import pytest

from endmark.db.export import FORMATS
from endmark.db.export.request import Export
from endmark.db.export.stream import COLUMNS, Result
from endmark.db.jobs import Job
from endmark.jobs.datasets import checked_rows, open_dataset, settle
from endmark.jobs.datasets.checking import NewRow
from endmark.jobs.errors import DatasetError, SpecError
from endmark.jobs.sampling import Sampling
from endmark.jobs.shards import shard_size
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import JobState
from endmark.worker.engine.request import Request
from tests.unit.export_batches import batches_of
from tests.unit.test_engine_scheduling import run

pytestmark = pytest.mark.unit
WARM = Sampling(temperature=1.0)


@pytest.fixture
def check(tmp_path):
    """Write a dataset and check it; return its rows and the notes."""

    def read(text, name="data.csv", **spec):
        path = tmp_path / name
        path.write_text(text)
        with open_dataset(str(path)) as dataset:
            settled = settle(GenerationSpec(**spec), dataset, skip_bad_rows=False)
            rows = [row for batch in checked_rows(dataset, settled) for row in batch]
            return rows, dataset.notes.texts()

    return read


def test_a_prompt_is_a_row_for_each_of_its_answers(check):
    rows, notes = check("prompt,samples\na,\nb,1\nc,3\n", samples=2, sampling=WARM)
    assert rows == [
        *(NewRow('["a",""]', sample) for sample in range(2)),
        NewRow('["b","1"]'),
        *(NewRow('["c","3"]', sample) for sample in range(3)),
    ]
    assert not any("alike" in note for note in notes)


def test_a_request_asks_for_answers_by_n(check):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "n": 2, "temperature": 1}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    rows, _ = check(json.dumps(line), name="batch.jsonl")
    assert [row.sample for row in rows] == [0, 1]
    with pytest.raises(DatasetError, match="samples is 0: must be from 1 to 128"):
        check(json.dumps({**line, "body": {**body, "n": 0}}), name="batch.jsonl")


def test_greedy_answers_of_one_prompt_are_noted_as_alike(check):
    _, notes = check("prompt,temperature\na,\nb,0.5\nc,0\n", samples=2)
    assert [note for note in notes if "alike" in note] == [
        "the answers of a prompt are all alike at temperature 0; see `--temperature` (2 rows, first in line 2)"
    ]


def test_more_answers_than_the_api_has_are_refused(check):
    with pytest.raises(SpecError, match="samples is 129: must be from 1 to 128"):
        check("prompt\na\n", samples=129)


@pytest.mark.parametrize(("total", "samples", "size"), [(100, 1, 16), (100, 10, 20), (100_000, 128, 128)])
def test_the_answers_of_a_prompt_are_in_one_shard(total, samples, size):
    assert shard_size(total, samples) == size


def test_sixteen_answers_compute_their_prompt_once():
    """But for its last token: what stands behind the last full page was computed by each."""
    prompt = list(range(1, 43))  # ten pages of four, and two tokens
    requests = [Request(key, prompt, 4, stream=key) for key in range(16)]
    _, _, runner = run(requests, max_rows=16, num_pages=128, prefill_tokens=4096)
    (plan,) = [plan for plan in runner.plans if plan.prefill]
    assert [len(row.token_ids) - row.cached for row in plan.prefill] == [42, *[1] * 15]
    assert len({page for row in plan.prefill for page in row.pages}) == 10 + 16


@pytest.mark.parametrize(("neighbours", "again"), [(0, 1), (60, 2)])
def test_the_answers_of_a_long_prompt_compute_it_once(neighbours, again):
    """It is computed in pieces, among short rows now and then, and the others have their slots before the last.

    Of a page that is not full then they copy nothing.
    """
    prompt = [1 + index * index % 89 for index in range(402)]
    requests = [Request(100 + key, prompt, 70, stream=key) for key in range(5)]
    requests += [Request(key, [key + 1] * 9, 60) for key in range(neighbours)]
    options = {"num_pages": 900, "context": 500, "prefill_tokens": 64, "piece_tokens": 16}
    done, _, runner = run(requests, max_rows=16, **options)
    pieces = [row for plan in runner.plans for row in plan.prefill if row.token_ids[:5] == tuple(prompt[:5])]
    assert sum(row.end - row.cached for row in pieces) == 402 + 4 * again
    assert len({done[100 + key].token_ids for key in range(5)}) == 1


def test_a_request_has_one_line_with_its_answers():
    """One whose answers all failed is in the error file; those of one prompt alone stay as they were."""

    def result(row, sample, reason, **about):
        values = dict.fromkeys(COLUMNS) | {"sample": sample, "finish_reason": reason, **about}
        return Result(row, ["a" if row < 2 else "b" if row < 4 else "c"], tuple(values.values()))

    told = {"prompt_tokens": 5, "completion_tokens": 3}
    rows = [
        result(0, 0, "eos", response="x", eos_source="natural", **told),
        result(1, 1, "length", response="y", **told),
        result(2, 0, "error", error="too long"),
        result(3, 1, "error", error="too long"),
        result(4, None, "eos", response="z", eos_source="natural", **told),
    ]
    job = Job("j", "j", JobState.COMPLETED, 0, ("custom_id",), 5, {0: GenerationSpec(model="m")})
    handle, errors = io.StringIO(), io.StringIO()
    export = Export(job, ("custom_id",), batches_of(rows), beside=lambda ending: errors)
    FORMATS["openai"].write(handle, export)
    several, single = map(json.loads, handle.getvalue().splitlines())
    body = several["response"]["body"]
    assert several["custom_id"] == "a"
    assert [(item["index"], item["message"]["content"], item["finish_reason"]) for item in body["choices"]] == [
        (0, "x", "stop"),
        (1, "y", "length"),
    ]
    assert [item["endmark"]["finish_reason"] for item in body["choices"]] == ["eos", "length"]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (5, 6)
    assert (single["custom_id"], single["response"]["body"]["endmark"]["finish_reason"]) == ("c", "eos")
    assert [json.loads(line)["custom_id"] for line in errors.getvalue().splitlines()] == ["b"]
