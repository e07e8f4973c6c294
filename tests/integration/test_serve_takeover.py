"""Shelves of `endmark serve` from before the ledger held their records."""

import json

import pytest
from sqlalchemy import text

from endmark.cli.submission import store_job
from endmark.db.jobs import cancel_job
from endmark.db.progress import all_statuses
from endmark.jobs.datasets.checking import NewRow
from endmark.jobs.spec import GenerationSpec
from tests.integration.serve_fixtures import ALICE, CHAT, CHIEF, TOKENS, requests, serving
from tests.integration.store.ledger import answer_all

pytestmark = pytest.mark.integration

FILE = {"bytes": 5, "created_at": 1_700_000_000, "filename": "a.jsonl", "purpose": "batch"}
BATCH = {
    "endpoint": CHAT,
    "completion_window": "24h",
    "created_at": 1_700_000_000,
    "number": 1,
    "metadata": None,
    "job_id": None,
    "errors": [],
    "times": {},
    "output_file_id": None,
    "error_file_id": None,
    "cancelled": False,
    "closed": False,
}


def file_id(number):
    return f"file-{number:024x}"


def batch_id(number):
    return f"batch_{number:024x}"


class Old:
    """A folder as an old service has left it."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("files", "batches"):
            (folder / name).mkdir(parents=True)

    def file(self, number, content=b"hello", **values):
        (self.folder / "files" / f"{file_id(number)}.jsonl").write_bytes(content)
        record = {"id": file_id(number), **FILE, "bytes": len(content), **values}
        (self.folder / "files" / f"{file_id(number)}.json").write_text(json.dumps(record))

    def batch(self, number, **values):
        record = {"id": batch_id(number), **BATCH, "input_file_id": file_id(1), "number": number, **values}
        (self.folder / "batches" / f"{batch_id(number)}.json").write_text(json.dumps(record))

    def left(self):
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*.json"))


@pytest.fixture
def old(tmp_path):
    return Old(tmp_path / "serve")


def job(store, name):
    """A stored job of three requests."""
    rows = [NewRow(json.dumps([f"r{row}", CHAT, "Hi"])) for row in range(3)]
    made = store_job(
        store, [rows], GenerationSpec(model="m"), columns=lambda: ["custom_id", "url", "prompt"], name=name
    )
    return made.job_id


def test_files_and_batches_are_taken_over_in_their_order(store, old):
    old.file(7, created_at=1_700_000_002, filename="ü.jsonl")
    old.file(1)
    old.file(9, b"out", purpose="batch_output", created_at=1_700_000_001)
    times = {"in_progress_at": 1, "finalizing_at": 2, "completed_at": 3}
    done = job(store, batch_id(1))
    answer_all(store)
    old.batch(1, job_id=done, closed=True, times=times, output_file_id=file_id(9), metadata={"a": "b"})
    error = {"code": "invalid_request", "message": "is not JSON", "line": 1, "param": None}
    old.batch(2, errors=[error], times={"failed_at": 4}, created_at=1_600_000_000)
    with serving(store, old.folder) as service:
        assert [item["id"] for item in service.get("/v1/files")["data"]] == [file_id(7), file_id(9), file_id(1)]
        assert service.get(f"/v1/files/{file_id(7)}") == {
            **FILE,
            "id": file_id(7),
            "created_at": 1_700_000_002,
            "filename": "ü.jsonl",
            "object": "file",
            "status": "processed",
            "expires_at": None,
        }
        assert service.ask("GET", f"/v1/files/{file_id(9)}/content").body == b"out"
        failed, completed = service.get("/v1/batches")["data"]
        assert (failed["id"], failed["status"], failed["failed_at"]) == (batch_id(2), "failed", 4)
        assert failed["errors"]["data"] == [error]
        assert failed["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
        assert (completed["status"], completed["output_file_id"]) == ("completed", file_id(9))
        assert (completed["metadata"], completed["completed_at"]) == ({"a": "b"}, 3)
        assert completed["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert old.left() == []
    with serving(store, old.folder) as service:
        assert len(service.get("/v1/files")["data"]) == 3


def test_open_batches_go_on_and_have_their_window_from_now(store, old):
    old.file(1, requests())
    running, unnoted, cancelled = (job(store, batch_id(number)) for number in (1, 2, 3))
    old.batch(1, job_id=running, times={"in_progress_at": 1})
    old.batch(2)
    old.batch(3, job_id=cancelled, cancelled=True, times={"cancelling_at": 1})
    old.batch(4)
    old.batch(5, completion_window="whenever")
    with serving(store, old.folder) as service:
        for number in (1, 2, 4, 5):
            batch = service.until(batch_id(number), "in_progress")
            assert batch["request_counts"]["total"] == 3
        assert service.batch(batch_id(5))["expires_at"] is None
        assert service.batch(batch_id(1))["expires_at"] > BATCH["created_at"] + 2 * 86_400
        assert service.until(batch_id(3), "cancelled")["error_file_id"]
        answer_all(store)
        for number in (1, 2, 4, 5):
            assert service.until(batch_id(number), "completed")["output_file_id"]
    assert len(all_statuses(store)) == 5, "none was stored twice"
    assert unnoted in {item.id for item in all_statuses(store)}


def test_a_batch_that_was_closed_says_how(store, old):
    for number, state in enumerate(("completed", "cancelled", "failed"), start=1):
        old.batch(number, job_id="ffffffff", closed=True, times={f"{state}_at": 1})
    ended = job(store, batch_id(4))
    cancel_job(store, ended)
    old.batch(4, job_id=ended, cancelled=True)
    with serving(store, old.folder) as service:
        service.until(batch_id(4), "cancelled")
        found = [item["status"] for item in service.get("/v1/batches")["data"]]
    assert found == ["cancelled", "failed", "cancelled", "completed"]


def test_what_is_taken_over_belongs_to_nobody(store, old):
    old.file(1)
    old.batch(1, errors=[{"message": "x"}])
    with serving(store, old.folder, environ=TOKENS) as service:
        for path in ("/v1/files", "/v1/batches"):
            assert service.get(path, ALICE)["data"] == []
            assert len(service.get(path, CHIEF)["data"]) == 1


def test_text_that_no_file_can_hold_is_replaced(store, old):
    """It broke the list of batches for everybody and for good."""
    old.file(1, filename="a\ud800\0b")
    old.batch(1, metadata={"\udfff": "x\ud83d y\0"}, errors=[{"message": "\ud800", "line": 1}])
    with serving(store, old.folder) as service:
        assert service.get("/v1/files")["data"][0]["filename"] == "a\ufffd\ufffdb"
        (batch,) = service.get("/v1/batches")["data"]
        assert batch["metadata"] == {"\ufffd": "x\ufffd y\ufffd"}
        assert batch["errors"]["data"] == [{"message": "\ufffd", "line": 1}]
    assert old.left() == []


DAMAGED = [
    b"",
    b"{",
    b"\xff",
    b"null",
    b"[]",
    b"{}",
    b"[" * 100_000,
    *(
        json.dumps({"id": file_id(2), **FILE, **BATCH, "input_file_id": file_id(1), **values}).encode()
        for values in (
            {"id": "../../etc/passwd", "created_at": None},
            {"id": None},
            {"id": batch_id(2), "created_at": "now"},
            {"id": batch_id(2), "created_at": 10**30},
            {"id": batch_id(2), "created_at": True},
            {"id": batch_id(2), "number": -1},
            {"id": batch_id(2), "endpoint": "/v1/\0"},
            {"id": batch_id(2), "job_id": "\0"},
            {"id": batch_id(2), "job_id": 7},
            {"id": batch_id(2), "output_file_id": "x" * 100},
            {"id": batch_id(2), "metadata": ["a"]},
            {"id": batch_id(2), "metadata": {"a": 1}},
            {"id": batch_id(2), "times": {"x": "y"}},
            {"id": batch_id(2), "times": [1]},
            {"id": batch_id(2), "errors": "x"},
            {"id": batch_id(2), "errors": [1]},
            {"bytes": "5"},
            {"bytes": -1},
            {"purpose": "other"},
            {"filename": 3},
        )
    ),
]


@pytest.mark.parametrize("kind", ["files", "batches"])
def test_a_damaged_record_is_told_and_left_where_it_is(store, old, kind, capfd):
    """One of them stopped the start."""
    old.file(1)
    old.batch(1, errors=[{"message": "x"}])
    (old.folder / "files" / f"{file_id(2)}.jsonl").write_bytes(b"hello")  # that some of them speak of
    for number, content in enumerate(DAMAGED):
        (old.folder / kind / f"damaged-{number}.json").write_bytes(content)
    for _ in range(2):
        with serving(store, old.folder) as service:
            assert [item["id"] for item in service.get("/v1/files")["data"]] == [file_id(1)]
            assert [item["id"] for item in service.get("/v1/batches")["data"]] == [batch_id(1)]
        said = capfd.readouterr().err
        for number in range(len(DAMAGED)):
            assert f"damaged-{number}.json` is no record and is left as it is: " in said
    assert len(old.left()) == len(DAMAGED)


def test_a_takeover_that_was_broken_off_is_done_again(store, old):
    old.file(1)
    old.batch(1, errors=[{"message": "x"}])
    kept = {path: path.read_bytes() for path in old.folder.rglob("*.json")}
    with serving(store, old.folder) as service:
        before = service.get("/v1/batches"), service.get("/v1/files")
    for path, content in kept.items():
        path.write_bytes(content)
    with serving(store, old.folder) as service:
        assert (service.get("/v1/batches"), service.get("/v1/files")) == before
    with store.reader.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM batches")).scalar() == 1


def test_what_an_old_service_was_writing_is_deleted(store, old):
    old.file(1)
    files = old.folder / "files"
    for name in (f"{file_id(2)}.part", f"{file_id(3)}.export", f"{file_id(3)}.errors.jsonl", f"{file_id(4)}.new"):
        (files / name).write_bytes(b"half")
    (files / ".endmark-1-abc.part").write_bytes(b"half")
    with serving(store, old.folder):
        assert [path.name for path in files.iterdir()] == [f"{file_id(1)}.jsonl"]
