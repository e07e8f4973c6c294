"""Results as OpenAI Batch files, checked by the `openai` package's own types, and as Parquet."""

import csv
import io
import json

import pyarrow
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion
from pyarrow import parquet

from endmark.db.attempts import commit
from endmark.db.export import export_job, format_of
from endmark.db.jobs import add_rows, begin_job, finish_submission
from endmark.db.shards import claim, finish
from endmark.jobs.datasets import checked_rows, open_dataset, settle
from endmark.jobs.errors import UsageError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import Attempt, EosSource, EosTrace, FinishReason, Outcome, Part, Verdict

pytestmark = pytest.mark.integration


def submit(store, path):
    spec = GenerationSpec(model="some/model")
    with open_dataset(str(path)) as dataset:
        spec = settle(spec, dataset, skip_bad_rows=False)
        job = begin_job(store, name="test", spec=spec)
        rows = [row.cells for batch in checked_rows(dataset, spec) for row in batch]
        add_rows(store, job, 0, rows)
        finish_submission(store, job, columns=dataset.columns, total=len(rows), shard_size=64)
    return job


def answer(store, verdicts):
    """Give the newest job's first rows these verdicts."""
    lease = claim(store, worker="w", model="some/model", adapter=None)
    attempts = [
        Attempt(row, 1, f"Answer “{row}”.", verdict, 3, 5, EosTrace(0.25)) for row, verdict in enumerate(verdicts)
    ]
    commit(store, lease, [Outcome(0, (attempt,)) for attempt in attempts])
    return lease


VERDICTS = [
    Verdict(FinishReason.EOS, EosSource.BOOSTED),
    Verdict(FinishReason.STOP_SEQUENCE, stop_sequence="###"),
    Verdict(FinishReason.LENGTH),
    Verdict(FinishReason.ERROR, error="the prompt has 9 tokens"),
]


def test_openai_lines_are_what_its_own_client_reads(store, tmp_path):
    path = tmp_path / "batch.jsonl"
    chat = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
    requests = [{"custom_id": f"c{row}", "url": "/v1/chat/completions", "body": chat} for row in range(5)]
    requests[1] = {"custom_id": "c1", "url": "/v1/completions", "body": {"model": "m", "prompt": "Once"}}
    path.write_text("\n".join(map(json.dumps, requests)))
    job = submit(store, path)
    answer(store, VERDICTS)
    export_job(store, job, tmp_path / "out.jsonl", format="openai")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == ["c0", "c1", "c2"]
    assert all(line["response"]["status_code"] == 200 and line["error"] is None for line in lines)
    bodies = [line["response"]["body"] for line in lines]
    first, last = (ChatCompletion.model_validate(body, strict=True) for body in (bodies[0], bodies[2]))
    assert (first.choices[0].message.content, first.choices[0].finish_reason) == ("Answer “0”.", "stop")
    assert (first.usage.total_tokens, first.model) == (8, "some/model")
    assert bodies[0]["endmark"]["eos_source"] == "boosted"
    assert last.choices[0].finish_reason == "length"
    completion = Completion.model_validate({**bodies[1]}, strict=True)
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("Answer “1”.", "stop")
    (failed,) = [json.loads(line) for line in (tmp_path / "out.errors.jsonl").read_text().splitlines()]
    assert (failed["custom_id"], failed["response"]) == ("c3", None)
    assert failed["error"] == {"code": "row_failed", "message": "the prompt has 9 tokens"}
    assert not list(tmp_path.glob(".*part"))


def test_a_thought_stands_beside_the_answer_where_the_client_looks_for_it(store, tmp_path):
    path = tmp_path / "batch.jsonl"
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "reasoning_effort": "low"}
    path.write_text("".join(json.dumps({"custom_id": f"c{row}", "body": chat}) + "\n" for row in range(2)))
    job = submit(store, path)
    lease = claim(store, worker="w", model="some/model", adapter=None)
    verdict = Verdict(FinishReason.EOS, EosSource.NATURAL)
    thinking = Attempt(0, 1, "Yes.", verdict, 3, 9, reasoning="Hm.", reasoning_tokens=4, ended_in=Part.ANSWER)
    commit(
        store,
        lease,
        [Outcome(0, (item,)) for item in (thinking, Attempt(1, 1, "Yes.", verdict, 3, 5, cached_tokens=2))],
    )
    export_job(store, job, tmp_path / "out.jsonl", format="openai")
    bodies = [json.loads(line)["response"]["body"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    first, second = (ChatCompletion.model_validate(body, strict=True) for body in bodies)
    assert (first.choices[0].message.content, first.choices[0].message.reasoning_content) == ("Yes.", "Hm.")
    assert (first.usage.completion_tokens, first.usage.completion_tokens_details.reasoning_tokens) == (9, 4)
    assert "reasoning_content" not in bodies[1]["choices"][0]["message"]
    assert second.usage.completion_tokens_details.reasoning_tokens == 0
    assert [item.usage.prompt_tokens_details.cached_tokens for item in (first, second)] == [0, 2]
    assert (bodies[0]["endmark"]["ended_in"], bodies[1]["endmark"]["ended_in"]) == ("answer", "answer")


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"id": "i", "custom_id": "c"}, "c"),
        ({"custom_id": "c", "id": "i"}, "c"),
        ({"id": "i", "custom_id": None}, "i"),
        ({"id": 7, "custom_id": ""}, "7"),
        ({}, "row-0"),
    ],
)
def test_the_id_of_a_line_is_its_own_before_any_other(store, tmp_path, columns, wanted):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({**columns, "prompt": "a"}))
    job = submit(store, path)
    finish(store, answer(store, VERDICTS[:1]))
    export_job(store, job, tmp_path / "out.jsonl", format="openai")
    assert json.loads((tmp_path / "out.jsonl").read_text())["custom_id"] == wanted


def test_an_export_without_failures_leaves_no_errors_of_the_one_before(store, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a"}\n')
    job = submit(store, path)
    finish(store, answer(store, VERDICTS[:1]))
    (tmp_path / "out.errors.jsonl").write_text("of the export before\n")
    export_job(store, job, tmp_path / "out.jsonl", format="openai")
    assert (tmp_path / "out.errors.jsonl").read_text() == ""
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_parquet_keeps_types_and_says_where_there_are_none(store, tmp_path):
    path = tmp_path / "data.jsonl"
    values = [{"prompt": "a", "n": 1, "x": 1, "mixed": "one"}, {"prompt": "b", "n": None, "x": 1.5, "mixed": [2]}]
    path.write_text("\n".join(map(json.dumps, values)))
    job = submit(store, path)
    finish(store, answer(store, VERDICTS[:2]))
    assert export_job(store, job, tmp_path / "out.parquet", format="parquet") == 2
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column("n").to_pylist() == [1, None]
    assert table.column("x").to_pylist() == [1.0, 1.5]
    assert table.column("mixed").to_pylist() == ['"one"', "[2]"]
    assert table.column("response").to_pylist() == ["Answer “0”.", "Answer “1”."]
    assert table.column("ended_with_eos").to_pylist() == [True, False]
    assert table.column("eos_prob_max").to_pylist() == [0.25, 0.25]
    again = submit(store, tmp_path / "out.parquet")
    assert again != job


def test_arrow_is_mapped_into_memory_and_holds_what_parquet_holds(store, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "a", "n": number}) for number in range(3)))
    job = submit(store, path)
    finish(store, answer(store, VERDICTS[:3]))
    assert export_job(store, job, tmp_path / "out.arrow", format=format_of(tmp_path / "out.arrow")) == 3
    export_job(store, job, tmp_path / "out.parquet", format="parquet")
    table = pyarrow.ipc.open_file(pyarrow.memory_map(str(tmp_path / "out.arrow"))).read_all()
    assert table.equals(parquet.read_table(tmp_path / "out.parquet"))


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
        ([2**63, 1], ["9223372036854775808", "1"]),
        ([1, -(2**63) - 1], ["1", "-9223372036854775809"]),
        ([2**64], ["18446744073709551616"]),
    ],
)
def test_an_integer_that_parquet_does_not_have_is_written_as_text(store, tmp_path, values, written):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "a", "n": value}) for value in values))
    job = submit(store, path)
    export_job(store, job, tmp_path / "out.parquet", format="parquet")
    assert parquet.read_table(tmp_path / "out.parquet").column("n").to_pylist() == written


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_of_the_input_that_are_called_like_ours_are_told_apart(store, tmp_path, format):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"prompt": "a", "row": "their row", "response": "their answer", "error": "none"}))
    job = submit(store, path)
    finish(store, answer(store, VERDICTS[:1]))
    out = tmp_path / "out"
    export_job(store, job, out, format=format)
    if format == "parquet":
        (row,) = parquet.read_table(out).to_pylist()
    elif format == "jsonl":
        row = json.loads(out.read_text())
    else:
        with out.open(newline="") as file:
            (row,) = csv.DictReader(file, delimiter="," if format == "csv" else "\t")
    assert (str(row["row"]), row["input_row"]) == ("0", "their row")
    assert (row["response"], row["input_response"]) == ("Answer “0”.", "their answer")
    assert row["input_error"] == "none"


def test_parquet_on_a_terminal_is_refused(store, tmp_path, monkeypatch):
    path = tmp_path / "data.csv"
    path.write_text("prompt\na\n")
    job = submit(store, path)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    with pytest.raises(UsageError, match="no text for a terminal"):
        export_job(store, job, None, format="parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_parts_with_fields_have_the_same_columns_and_are_the_whole(store, tmp_path, suffix):
    """Each part had the columns and types of its own answers' fields, and a part without any was refused."""
    (tmp_path / "in.csv").write_text("prompt\n" + "x\n" * 6)
    job = submit(store, tmp_path / "in.csv")
    texts = ['{"a": 1}', "plain", '{"b": 2}', "x", "y", '{"a": 3}']
    lease = claim(store, worker="w", model="some/model", adapter=None)
    verdict = Verdict(FinishReason.EOS, EosSource.NATURAL)
    attempts = [Attempt(row, 1, text, verdict, 3, 5, EosTrace(0.25)) for row, text in enumerate(texts)]
    commit(store, lease, [Outcome(0, (attempt,)) for attempt in attempts])

    def exported(name, part):
        path = tmp_path / f"{name}.{suffix}"
        export_job(store, job, path, format=suffix, parse=True, part=part)
        if suffix == "parquet":
            table = parquet.read_table(path)
            return table.schema, table.to_pylist()
        text = path.read_text()
        if suffix == "csv":
            header, *lines = csv.reader(io.StringIO(text))
            return header, [dict(zip(header, line, strict=True)) for line in lines]
        lines = [json.loads(line) for line in text.splitlines()]
        return list(lines[0]), lines

    names, whole = exported("whole", None)
    parts = [exported(f"part-{number}", (number, 3)) for number in (1, 2, 3)]
    assert {"a", "b"} <= set(names.names if suffix == "parquet" else names)
    assert [found for found, _ in parts] == [names] * 3
    assert [row for _, rows in parts for row in rows] == whole
