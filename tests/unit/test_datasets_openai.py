"""OpenAI Batch files and Parquet as datasets."""

import datetime
import io
import json
import sys

import pyarrow
import pytest
from pyarrow import parquet

from endmark.jobs.datasets import checked_rows, open_dataset, settle
from endmark.jobs.datasets.openai import COLUMNS
from endmark.jobs.errors import DatasetError, Problem
from endmark.jobs.prompts import PromptPlan
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies

pytestmark = pytest.mark.unit


def request(custom_id="a", url="/v1/chat/completions", **body):
    if url.endswith("chat/completions"):
        body.setdefault("messages", [{"role": "user", "content": "Hello"}])
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "gpt-4o-mini", **body}}


@pytest.fixture
def read(tmp_path):
    """Write lines of JSON; return each row's request as the worker reads it, or its problem."""

    def read_requests(*requests, spec=None, name="batch.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(item) + "\n" for item in requests))
        spec = spec or GenerationSpec()
        with open_dataset(str(path)) as dataset:
            assert dataset.name == "openai"
            assert tuple(dataset.columns) == COLUMNS
            plan = PromptPlan(dataset.columns, spec)
            return [
                f"{item.line}: {item.reason}" if isinstance(item, Problem) else plan.read(item[1])
                for item in dataset
            ]

    return read_requests


def test_what_a_request_may_ask_for(read):
    spec = GenerationSpec(strategies=build_strategies(["soft-landing", "stop:text=END"]))
    chat = request(
        messages=[
            {
                "role": "developer",
                "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
            },
            {"role": "user", "content": "Hello"},
        ],
        max_tokens=7,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.9,
        seed=3,
        stop=["\n\n", 'a "b", c;'],
        n=3,
        stream=False,
        user="me",
        response_format={"type": "text"},
        logit_bias=None,
    )
    one, two = read(chat, request("b", "/v1/completions", prompt="Once", stop="###"), spec=spec)
    assert one.turns == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"})
    own = spec.with_overrides(one.overrides)
    assert (own.max_new_tokens, own.sampling.temperature, own.sampling.top_p, own.sampling.seed) == (
        9,
        0.5,
        0.9,
        3,
    )
    assert (own.samples, two.overrides.get("samples")) == (3, None)
    assert [item.name for item in own.strategies] == ["soft-landing", "stop"]
    assert own.strategies[1].strings("text") == ("\n\n", 'a "b", c;')
    assert (two.prompt, two.turns) == ("Once", None)
    assert spec.with_overrides(two.overrides).strategies[1].strings("text") == ("###",)


def test_a_request_is_recognised_whatever_the_order_and_length_of_its_keys(tmp_path):
    """With sorted keys and a long text `custom_id` stands behind the first 4,096 bytes, where none looked."""
    long = request(messages=[{"role": "user", "content": "Be careful. " * 20_000}])
    path = tmp_path / "batch.jsonl"
    for ends in ("\n", "\r\n"):
        path.write_bytes(b"\xef\xbb\xbf\n" + (json.dumps(long, sort_keys=True) + ends).encode() * 2)
        with open_dataset(str(path)) as dataset:
            assert dataset.name == "openai"
            assert [item[0] for item in dataset] == [2, 3]


def test_a_request_is_recognised_by_its_id_or_by_its_url(tmp_path):
    path = tmp_path / "batch.jsonl"
    chat = request(stop=list("abcd"))
    for missing in ("custom_id", "url", "method"):
        path.write_text(json.dumps({key: value for key, value in chat.items() if key != missing}) + "\n")
        with open_dataset(str(path)) as dataset:
            assert dataset.name == "openai"
            assert isinstance(next(iter(dataset)), Problem) == (missing == "custom_id")
    path.write_text(json.dumps({"id": "a", "url": "https://x", "body": chat["body"]}) + "\n")
    with open_dataset(str(path)) as dataset:
        assert dataset.name == "jsonl"


def test_keys_inside_a_text_make_no_request(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"prompt": 'What is "custom_id": and "body": {?'}) + "\n")
    with open_dataset(str(path)) as dataset:
        assert dataset.name == "jsonl"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (request(tools=[{"type": "function"}], best_of=2), "`body.tools`, `body.best_of` are not supported"),
        (request(response_format={"type": "xml"}), "`body.response_format.type` is not `text`, `json_object` or"),
        (request(response_format=["json"]), "`body.response_format.type` is not"),
        (
            request(response_format={"type": "json_schema", "json_schema": {"name": "x"}}),
            "`body.response_format.json_schema.schema` is missing or not an object",
        ),
        (request(url="/v1/embeddings"), "`url` is '/v1/embeddings'"),
        (request(custom_id=""), "`custom_id` is missing or not text"),
        ({"custom_id": "a", "body": {"messages": None}}, "`body.messages` is missing"),
        (request(stop=list("abcde")), "`body.stop` has 5 texts; the Batch API takes 4"),
        (request(stop=[1]), "`body.stop` is not text, nor a list of texts"),
        (request(url="/v1/completions", prompt=[1, 2]), "`body.prompt` is not one text"),
        (
            request(messages=[{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]),
            "`body.messages`, turn 1: `tool_calls` is not supported",
        ),
        (
            request(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "`body.messages`, turn 1: a part of type `image_url` is not supported",
        ),
    ],
)
def test_what_is_not_served_is_named_with_its_line(read, line, reason):
    good, bad = read(request(), line)
    assert good.turns
    assert bad.startswith(f"2: {reason}")


def test_the_whole_file_is_checked_before_anything_is_stored(tmp_path):
    path = tmp_path / "batch.jsonl"
    lines = [request("a"), request("a"), request("b", temperature=-1), request("c", messages=[])]
    path.write_text("\n".join(map(json.dumps, lines)))
    with open_dataset(str(path)) as dataset, pytest.raises(DatasetError) as caught:
        list(checked_rows(dataset, settle(GenerationSpec(), dataset, skip_bad_rows=False)))
    assert "--no-row-options" not in caught.value.hint  # the format says what these fields are
    assert str(caught.value).splitlines() == [
        f"{path}:2: column `custom_id`: `a` stands in an earlier row",
        f"{path}:3: temperature is -1: must be from 0 to 2",
        f"{path}:4: column `messages` is not a list of chat turns",
    ]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "data.parquet"
    values = {
        "prompt": [f"Question {row}" for row in range(5000)],
        "n": list(range(5000)),
        "when": [datetime.datetime(2024, 1, 1)] * 5000,
        "score": [float("nan"), *[0.5] * 4999],
        "tags": [["a", None]] * 5000,
    }
    parquet.write_table(pyarrow.table(values), path, row_group_size=1500)
    return path


def test_parquet_is_read_whole_with_its_types(table):
    with open_dataset(str(table)) as dataset:
        assert dataset.columns == ["prompt", "n", "when", "score", "tags"]
        batches = list(checked_rows(dataset, settle(GenerationSpec(), dataset, skip_bad_rows=False)))
    rows = [json.loads(row.cells) for batch in batches for row in batch]
    assert rows[0] == ["Question 0", 0, "2024-01-01T00:00:00", None, ["a", None]]
    assert [row[1] for row in rows] == list(range(5000))


def test_parquet_without_its_name_or_its_end(table, tmp_path, monkeypatch):
    other = tmp_path / "data.bin"
    other.write_bytes(table.read_bytes())
    with open_dataset(str(other)) as dataset:
        assert dataset.name == "parquet"
    other.write_bytes(table.read_bytes()[:-9])
    with pytest.raises(DatasetError, match="is not Parquet"):
        open_dataset(str(other))

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pipe(table.read_bytes()))))
    with pytest.raises(DatasetError, match="cannot be read from a pipe"):
        open_dataset("-")
