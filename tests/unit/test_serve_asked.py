"""What requests to `endmark serve` ask for, checked."""

import json

import pytest
from starlette.datastructures import QueryParams

from endmark.cli.http.naming import file_name
from endmark.cli.http.refusals import Refused
from endmark.cli.serve.asked import Page, listed, read_json, wanted_batch, wanted_page, window_seconds
from endmark.db.served_batches import NewBatch

pytestmark = pytest.mark.unit

GOOD = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}


def refused(function, *values, **options):
    """Call what must refuse; return the code."""
    with pytest.raises(Refused) as caught:
        function(*values, **options)
    assert caught.value.status == 400
    assert json.loads(caught.value.response().body)["error"]["message"] == str(caught.value)
    return caught.value.code


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"\xff",
        b"nul",
        b'{"a":1}x',
        b"9" * 5000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 900 + b"]" * 901,
    ],
)
def test_what_is_no_json_is_refused(body):
    assert refused(read_json, body) == "invalid_json"


@pytest.mark.parametrize(
    "body", [rb'{"metadata":{"a":"\ud800"}}', rb'{"\udfff":1}', rb'["\ud83d x"]', rb'"\udc00\ud800"']
)
def test_a_surrogate_without_its_pair_is_refused_wherever_it_stands(body):
    """In `metadata` it was stored, and broke the list of batches for everybody and for good."""
    assert refused(read_json, body) == "invalid_json"


def test_all_other_json_is_read():
    for value in (None, 0, [], {"a": [1, {"b": "\0 ü 😀 \u2028"}]}, "x" * 10_000):
        for ascii_only in (True, False):
            assert read_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


def test_a_batch_is_what_the_request_says():
    made = wanted_batch({**GOOD, "metadata": {"a": "b"}, "else": 1})
    assert made == NewBatch("file-1", "/v1/chat/completions", "24h", 86_400, {"a": "b"}, None)
    life = {"anchor": "created_at", "seconds": 3600}
    made = wanted_batch({**GOOD, "endpoint": "/v1/completions", "output_expires_after": life})
    assert (made.endpoint, made.metadata, made.output_seconds) == ("/v1/completions", None, 3600)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"input_file_id": None}, "missing_input_file"),
        ({"input_file_id": 1}, "missing_input_file"),
        ({"endpoint": "/v1/embeddings"}, "invalid_endpoint"),
        ({"endpoint": ["/v1/completions"]}, "invalid_endpoint"),
        ({"endpoint": None}, "invalid_endpoint"),
        ({"completion_window": None}, "invalid_window"),
        ({"completion_window": 24}, "invalid_window"),
        ({"metadata": []}, "invalid_metadata"),
        ({"metadata": "a"}, "invalid_metadata"),
        ({"metadata": {"a": 1}}, "invalid_metadata"),
        ({"metadata": {"a": None}}, "invalid_metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "invalid_metadata"),
        ({"metadata": {"x" * 65: ""}}, "invalid_metadata"),
        ({"metadata": {"": "x" * 513}}, "invalid_metadata"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(change, code):
    assert refused(wanted_batch, {**GOOD, **change}) == code


@pytest.mark.parametrize("values", [None, [], "x", 1, {}, [GOOD]])
def test_a_body_that_is_no_batch_is_refused(values):
    assert refused(wanted_batch, values) == "missing_input_file"


def test_metadata_may_be_as_large_as_its_limits():
    metadata = {f"{n:064}": "x" * 512 for n in range(16)}
    assert wanted_batch({**GOOD, "metadata": metadata}).metadata == metadata


def test_a_window_is_a_number_and_a_unit():
    asked = ("1s", "90m", "24h", "30d", "720h")
    assert [window_seconds(window) for window in asked] == [1, 5400, 86_400, 2_592_000, 2_592_000]
    for window in (
        "",
        "24",
        "h",
        "0h",
        "31d",
        "721h",
        "24 h",
        "24H",
        "-1h",
        "1.5h",
        "²h",
        "24h\n",
        "9999999s",
        None,
        24,
    ):
        assert refused(window_seconds, window) == "invalid_window"


def test_a_page_has_the_limit_that_is_asked_for():
    def page(query):
        return wanted_page(QueryParams(query), {"a", "b"}.__contains__, limit=20, most=100)

    assert [page("") for _ in "x"] == [Page(None, 20)]
    assert page("limit=1&after=b") == Page("b", 1)
    assert page("limit=100&after=") == Page(None, 100)
    for limit in ("0", "101", "-1", "1.5", "", "²", "٣", "x", "9" * 5000, "1e1", " 1"):
        assert refused(page, f"limit={limit}") == "invalid_limit"
    for after in ("c", "A", "%00", "%ff"):
        assert refused(page, f"after={after}") == "invalid_after"


def test_a_list_names_its_ends():
    assert listed([{"id": "a"}, {"id": "b"}], more=True) == {
        "object": "list",
        "data": [{"id": "a"}, {"id": "b"}],
        "first_id": "a",
        "last_id": "b",
        "has_more": True,
    }
    assert listed([], more=False) | {"object": 0} == {
        "object": 0,
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_the_name_of_a_file_is_text_of_one_line():
    assert file_name("batch ü.jsonl") == "batch ü.jsonl"
    assert file_name("a\0b\n\ud800\u202ec\x1b[0m") == "a_b___c_[0m"
    assert file_name("x" * 256) == "x" * 255
    for empty in (None, "", "  "):
        assert file_name(empty) == "upload.jsonl"
