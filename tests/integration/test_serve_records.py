"""Files and batches of `endmark serve` in the ledger: whose they are, how they are listed, when they end."""

import errno
import json
import time

import pytest
from sqlalchemy import text

from endmark.cli.serve import keeper
from endmark.db.attempts import commit
from endmark.db.jobs import cancel_job, fail_job, load_job
from endmark.db.progress import all_statuses
from endmark.db.served_batches import Outcome, cancel_batch, close_batch
from endmark.db.shards import reap
from endmark.jobs.errors import LeaseLost, UsageError
from tests.integration.serve_fixtures import ALICE, BOB, CHAT, CHIEF, TOKENS, form, requests, serving
from tests.integration.service_fixtures import wait_until
from tests.integration.store.ledger import answer_all, expire, outcome, take
from tests.unit.asgi import HANGS_UP

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "serve"


@pytest.fixture
def service(store, folder):
    with serving(store, folder) as made:
        yield made


@pytest.fixture
def shared(store, folder):
    with serving(store, folder, environ=TOKENS) as made:
        yield made


def change(store, table, assignments, **values):
    with store.writer.begin() as connection:
        connection.execute(text(f"UPDATE {table} SET {assignments}"), values)


def ids(service, path, token=None):
    return [item["id"] for item in service.get(path, token)["data"]]


def test_no_token_sees_anothers_files_and_batches(shared):
    """Every token saw, changed and deleted what all had stored."""
    file_id = shared.upload(token=ALICE)
    batch_id = shared.create(file_id, token=ALICE)
    shared.until(batch_id, "in_progress", token=ALICE)
    mine = shared.upload(token=BOB)
    assert ids(shared, "/v1/files", BOB) == [mine]
    assert ids(shared, "/v1/batches", BOB) == []
    asked = [("GET", f"/v1/files/{file_id}"), ("GET", f"/v1/files/{file_id}/content")]
    asked += [("DELETE", f"/v1/files/{file_id}"), ("GET", f"/v1/batches/{batch_id}")]
    asked += [("POST", f"/v1/batches/{batch_id}/cancel")]
    for method, path in asked:
        answer = shared.ask(method, path, token=BOB)
        unknown = shared.ask(
            method, path.replace(file_id, "file-" + 24 * "0").replace(batch_id, "batch_" + 24 * "0"), token=BOB
        )
        assert (answer.status, answer.error["code"]) == (404, unknown.error["code"]), "as if it were not there"
    for path, after in (("/v1/files", file_id), ("/v1/batches", batch_id)):
        assert shared.ask("GET", f"{path}?after={after}", token=BOB).error["code"] == "invalid_after"
    wanted = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    assert shared.ask("POST", "/v1/batches", wanted, token=BOB).status == 404
    assert shared.batch(batch_id, ALICE)["status"] == "in_progress"


def test_a_route_that_is_not_served_tells_those_that_are(shared):
    """Whoever asks for one answer, as of a server of chats, was told `Not Found`."""
    answer = shared.ask("POST", "/v1/chat/completions", {"model": "demo", "messages": []}, token=BOB)
    assert answer.status == 404
    assert "`POST /v1/chat/completions` is not served" in answer.error["message"]
    assert "/v1/batches" in answer.error["message"]


def test_results_belong_to_who_asked_for_them(shared, store):
    batch_id = shared.create(token=ALICE)
    shared.until(batch_id, "in_progress", token=ALICE)
    cancel_job(store, all_statuses(store)[0].id)
    errors = shared.until(batch_id, "cancelled", token=ALICE)["error_file_id"]
    assert len(shared.lines(errors, ALICE)) == 3
    assert shared.ask("GET", f"/v1/files/{errors}/content", token=BOB).status == 404


def test_an_operator_sees_all(shared):
    files = [shared.upload(token=token) for token in (ALICE, BOB, CHIEF)]
    batch_id = shared.create(files[0], token=ALICE)
    shared.until(batch_id, "in_progress", token=ALICE)
    assert ids(shared, "/v1/files", CHIEF) == files[::-1]
    assert ids(shared, "/v1/batches", CHIEF) == [batch_id]
    assert shared.ask("POST", f"/v1/batches/{batch_id}/cancel", token=CHIEF).status == 200
    assert shared.ask("DELETE", f"/v1/files/{files[1]}", token=CHIEF).status == 200
    assert ids(shared, "/v1/files", BOB) == []
    made = shared.create(files[0], token=CHIEF)
    shared.until(made, "in_progress", token=CHIEF)
    assert shared.ask("GET", f"/v1/batches/{made}", token=ALICE).status == 404, "whoever asks owns the answers"


def test_a_token_that_is_changed_under_its_name_keeps_all(store, folder):
    with serving(store, folder, environ={"ENDMARK_TOKENS": f"{ALICE},{BOB}"}) as service:
        file_id = service.upload(token=ALICE)
        other = service.upload(token=BOB)
    with serving(store, folder, environ={"ENDMARK_TOKENS": f"ann:{ALICE},{BOB}"}) as service:
        assert ids(service, "/v1/files", ALICE) == [file_id]
        assert ids(service, "/v1/files", BOB) == [other]
    with serving(store, folder, environ={"ENDMARK_TOKENS": f"ann:{CHIEF},{BOB}"}) as service:
        assert ids(service, "/v1/files", CHIEF) == [file_id]
        assert ids(service, "/v1/files", BOB) == [other]


def test_what_was_stored_without_tokens_is_for_the_only_owner_or_the_operator(store, folder, capfd):
    with serving(store, folder) as service:
        file_id = service.upload()
    with serving(store, folder, environ=TOKENS) as service:
        assert ids(service, "/v1/files", ALICE) == ids(service, "/v1/files", BOB) == []
        assert ids(service, "/v1/files", CHIEF) == [file_id]
    assert "belong" not in capfd.readouterr().err
    with serving(store, folder, environ={"ENDMARK_TOKENS": f"alice:{ALICE},alice:{CHIEF}"}) as service:
        assert ids(service, "/v1/files", ALICE) == [file_id]
    assert "1 files and batches of before belong to `alice`" in capfd.readouterr().err
    with serving(store, folder, environ={"ENDMARK_TOKENS": f"alice:{ALICE}"}) as service:
        assert ids(service, "/v1/files", ALICE) == [file_id]
    assert "belong" not in capfd.readouterr().err
    with serving(store, folder) as service:
        assert ids(service, "/v1/files") == []


def test_no_token_is_stored_or_told(store, folder, tmp_path, capfd):
    with serving(store, folder, environ={"ENDMARK_TOKENS": f"{ALICE},bob:{BOB}"}) as service:
        for token in (ALICE, BOB):
            service.create(token=token)
        service.ask("GET", "/v1/files", token=CHIEF)
        wait_until(lambda: len(service.woken) == 2)
    with store.reader.connect() as connection:
        stored = [
            str(row) for name in ("files", "batches") for row in connection.execute(text(f"SELECT * FROM {name}"))
        ]
    said = "".join([*stored, *capfd.readouterr()])
    for token in (ALICE, BOB, CHIEF):
        assert token not in said


def test_lists_come_in_pages_in_their_order(service):
    """An unknown `after` gave the first page again, without end."""
    files = [service.upload(b"x") for _ in range(5)]
    page = service.get("/v1/files?limit=2")
    assert (page["first_id"], page["last_id"], page["has_more"]) == (files[4], files[3], True)
    assert ids(service, f"/v1/files?limit=2&after={files[3]}") == [files[2], files[1]]
    last = service.get(f"/v1/files?limit=2&after={files[1]}")
    assert ([item["id"] for item in last["data"]], last["has_more"]) == ([files[0]], False)
    assert service.get(f"/v1/files?limit=1&after={files[1]}")["has_more"] is False
    assert service.get(f"/v1/files?after={files[0]}")["data"] == []
    assert ids(service, "/v1/files?order=asc") == files
    assert ids(service, f"/v1/files?order=asc&after={files[1]}&limit=2") == files[2:4]
    assert ids(service, "/v1/files?purpose=batch") == files[::-1]
    for purpose in ("batch_output", "fine-tune", "%00"):
        assert ids(service, f"/v1/files?purpose={purpose}") == []
    made = [service.create(files[0]) for _ in range(3)]
    assert ids(service, "/v1/batches?limit=2") == made[:0:-1]
    assert service.get("/v1/batches?limit=2")["has_more"] is True
    assert ids(service, f"/v1/batches?after={made[1]}") == [made[0]]
    assert service.get("/v1/batches?limit=3")["has_more"] is False
    for path in ("/v1/files", "/v1/batches"):
        for query, code in (
            ("after=x", "invalid_after"),
            ("limit=0", "invalid_limit"),
            ("order=up", "invalid_order"),
        ):
            answer = service.ask("GET", f"{path}?{query}")
            assert (answer.status, answer.error["code"]) == (400, code)
    assert service.ask("GET", "/v1/batches?limit=101").status == 400


def test_a_file_expires_when_it_is_asked_to(service, store, folder):
    expiring = service.upload(**{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    other = service.upload(expires_after=json.dumps({"anchor": "created_at", "seconds": 2_592_000}))
    kept = service.upload()
    described = service.get(f"/v1/files/{expiring}")
    assert described["expires_at"] - described["created_at"] in (3600, 3601)
    assert service.get(f"/v1/files/{kept}")["expires_at"] is None
    assert abs(described["created_at"] - time.time()) < 60
    assert described == {
        "id": expiring,
        "object": "file",
        "bytes": len(requests()),
        "created_at": described["created_at"],
        "expires_at": described["expires_at"],
        "filename": "batch.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
    with store.writer.begin() as connection:
        connection.execute(text("UPDATE files SET expires_at = 1 WHERE id = :id"), {"id": expiring})
    assert service.ask("GET", f"/v1/files/{expiring}").status == 404
    assert sorted(ids(service, "/v1/files")) == sorted([other, kept])
    wait_until(lambda: not (folder / "files" / f"{expiring}.jsonl").exists())
    assert {path.stem for path in (folder / "files").glob("*.jsonl")} == {other, kept}
    with store.reader.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM files")).scalar() == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"expires_after[seconds]": "3600"},
        {"expires_after[anchor]": "created_at"},
        {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
        *(
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": item}
            for item in ("3599", "2592001", "x")
        ),
        {"expires_after": "3600"},
        {"expires_after": "{"},
        {"expires_after": json.dumps({"anchor": "created_at", "seconds": 3600.0})},
        {"expires_after": json.dumps({"anchor": "created_at", "seconds": 3600, "more": 1})},
    ],
)
@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_file_that_cannot_expire_so_is_refused(service, folder, fields):
    answer = service.ask(
        "POST", "/v1/files", form(b"x", **fields), **{"content-type": "multipart/form-data; boundary=b"}
    )
    assert answer.status == 400
    assert list((folder / "files").iterdir()) == []


def answered(store, rows, **about):
    """Answer the first rows of the only job, as a worker does that goes on with the others."""
    lease = take(store)
    commit(store, lease, [outcome(row, **about) for row in range(rows)])
    return lease


OUTPUT_LIFE = {"anchor": "created_at", "seconds": 3600}


def test_a_batch_expires_at_its_window_and_keeps_what_is_done(service, store):
    """Its window was taken and never looked at."""
    content = requests(4)
    batch_id = service.create(service.upload(content), completion_window="2h", output_expires_after=OUTPUT_LIFE)
    batch = service.until(batch_id, "in_progress")
    assert batch["expires_at"] - batch["created_at"] in (7200, 7201)
    lease = answered(store, 1)
    commit(store, lease, [outcome(3, "error")])
    change(store, "batches", "expires_at = expires_at - 3600")
    service.keeper.wake()
    assert service.batch(batch_id)["status"] == "in_progress", "it has an hour"
    change(store, "batches", "expires_at = expires_at - 3601")
    batch = service.until(batch_id, "expired")
    with pytest.raises(LeaseLost):
        commit(store, lease, [outcome(1)])
    (line,) = service.lines(batch["output_file_id"])
    assert (line["custom_id"], line["response"]["body"]["choices"][0]["message"]["content"]) == ("r0", "answer")
    *errors, failed = service.lines(batch["error_file_id"])
    assert (failed["custom_id"], failed["error"]) == ("r3", {"code": "row_failed", "message": "too long"})
    assert [(line["custom_id"], line["response"], line["error"]) for line in errors] == [
        (
            f"r{row}",
            None,
            {
                "code": "batch_expired",
                "message": "This request could not be executed before the completion window expired.",
            },
        )
        for row in (1, 2)
    ]
    assert batch["request_counts"] == {"total": 4, "completed": 1, "failed": 1}
    assert batch["expired_at"] >= batch["finalizing_at"] >= batch["in_progress_at"]
    assert batch["completed_at"] is batch["cancelled_at"] is batch["cancelling_at"] is None
    for file_id in (batch["output_file_id"], batch["error_file_id"]):
        file = service.get(f"/v1/files/{file_id}")
        assert file["expires_at"] - file["created_at"] in (3600, 3601)
        assert file["bytes"] == len(service.ask("GET", f"/v1/files/{file_id}/content").body)
    assert service.ask("POST", f"/v1/batches/{batch_id}/cancel").error["code"] == "invalid_state"


def test_a_batch_expires_before_its_file_was_checked(service, store, folder):
    service.keeper.close()
    batch_id = service.create()
    assert service.batch(batch_id)["status"] == "validating"
    change(store, "batches", "expires_at = 1")
    with pytest.raises(UsageError), serving(store, folder):
        pytest.fail("the folder is in use")
    service.shelf.close()
    with serving(store, folder) as again:
        batch = again.until(batch_id, "expired")
    assert (batch["output_file_id"], batch["error_file_id"], batch["in_progress_at"]) == (None, None, None)
    assert all_statuses(store) == []


def test_a_batch_that_is_done_does_not_expire(service, store):
    batch_id = service.create()
    service.until(batch_id, "in_progress")
    answer_all(store)
    batch = service.until(batch_id, "completed")
    change(store, "batches", "expires_at = 1")
    service.keeper.wake()
    service.until(service.create(), "in_progress")
    assert service.batch(batch_id) == {**batch, "expires_at": 1}
    assert batch["error_file_id"] is None
    assert batch["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert (batch["errors"], batch["expired_at"]) == (None, None)
    assert [line["custom_id"] for line in service.lines(batch["output_file_id"])] == ["r0", "r1", "r2"]


def test_a_batch_is_cancelled_once_and_what_is_done_is_kept(service, store):
    batch_id = service.create(metadata={"why": "\0 ü 😀"})
    assert service.until(batch_id, "in_progress")["metadata"] == {"why": "\0 ü 😀"}
    answered(store, 2)
    answer = service.ask("POST", f"/v1/batches/{batch_id}/cancel")
    assert (answer.status, answer.json["status"]) == (200, "cancelling")
    assert service.ask("POST", f"/v1/batches/{batch_id}/cancel").error["code"] == "invalid_state"
    batch = service.until(batch_id, "cancelled")
    assert [line["custom_id"] for line in service.lines(batch["output_file_id"])] == ["r0", "r1"]
    (line,) = service.lines(batch["error_file_id"])
    assert (line["custom_id"], line["error"]["code"]) == ("r2", "batch_cancelled")
    assert batch["cancelled_at"] >= batch["cancelling_at"]
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 0}


def test_failed_rows_are_in_the_error_file(service, store):
    batch_id = service.create()
    service.until(batch_id, "in_progress")
    answered(store, 1, reason="error")
    assert service.batch(batch_id)["request_counts"] == {"total": 3, "completed": 0, "failed": 1}
    finish_rest(store)
    batch = service.until(batch_id, "completed")
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    (line,) = service.lines(batch["error_file_id"])
    assert (line["custom_id"], line["error"]["code"]) == ("r0", "row_failed")


def finish_rest(store):
    """Let another worker answer what is left."""
    expire(store)
    reap(store)
    answer_all(store)


def test_a_job_that_fails_as_a_whole_fails_its_batch_and_keeps_what_is_done(service, store):
    """Clients read no reason; the operator's may name folders of the server."""
    batch_id = service.create()
    service.until(batch_id, "in_progress")
    lease = answered(store, 1)
    fail_job(store, lease, "cannot read `/srv/models/m`")
    batch = service.until(batch_id, "failed")
    (error,) = batch["errors"]["data"]
    assert (error["code"], "/srv" in error["message"]) == ("job_failed", False)
    assert len(service.lines(batch["output_file_id"])) == 1
    errors = service.lines(batch["error_file_id"])
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [
        ("r1", "batch_failed"),
        ("r2", "batch_failed"),
    ]


def test_workers_are_told_of_a_batch(service):
    service.create()
    wait_until(lambda: service.woken)
    assert service.woken == [("m", None)]


def test_a_file_that_is_deleted_while_a_batch_begins(service, store, folder):
    """Either the file is in use, or the batch fails and says why."""
    service.keeper.close()
    file_id = service.upload()
    batch_id = service.create(file_id)
    answer = service.ask("DELETE", f"/v1/files/{file_id}")
    assert (answer.status, answer.error["code"]) == (409, "file_in_use")
    assert service.get(f"/v1/files/{file_id}")["status"] == "processed"
    assert service.shelf.marked() == []
    service.shelf.close()
    (folder / "files" / f"{file_id}.jsonl").unlink()
    with serving(store, folder) as again:
        batch = again.until(batch_id, "failed")
        (error,) = batch["errors"]["data"]
        assert (error["code"], str(folder) in error["message"]) == ("file_unreadable", False)
        assert again.ask("GET", f"/v1/files/{file_id}/content").status == 404
        assert again.ask("DELETE", f"/v1/files/{file_id}").json["deleted"] is True
        assert again.ask("DELETE", f"/v1/files/{file_id}").status == 404


def test_a_file_that_has_been_used_is_deleted(service, folder):
    file_id = service.upload()
    service.until(service.create(file_id), "in_progress")
    assert service.ask("DELETE", f"/v1/files/{file_id}").json == {"id": file_id, "object": "file", "deleted": True}
    assert list((folder / "files").iterdir()) == []
    wanted = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
    assert service.ask("POST", "/v1/batches", wanted).error["code"] == "file_not_found"


@pytest.mark.parametrize(("count", "status"), [(100, "in_progress"), (101, "failed")])
def test_a_batch_may_have_as_many_requests_as_the_limit(service, store, count, status):
    batch = service.until(service.create(service.upload(requests(count))), status)
    assert batch["request_counts"]["total"] == (count if status == "in_progress" else 0)
    if status == "failed":
        assert "more than 100 requests" in batch["errors"]["data"][0]["message"]
        assert all_statuses(store) == []


def test_a_completion_is_asked_raw(service, store):
    line = {"custom_id": "r", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "x"}}
    file_id = service.upload(json.dumps(line).encode())
    service.until(service.create(file_id, endpoint="/v1/completions"), "in_progress")
    (job,) = all_statuses(store)
    assert load_job(store, job.id).spec.raw is True
    failed = service.until(service.create(file_id), "failed")
    assert "the batch's endpoint" in failed["errors"]["data"][0]["message"]


def test_a_check_is_broken_off_when_its_batch_is_cancelled(store, folder, monkeypatch):
    """A large file was checked to its end, stored, and only then cancelled."""
    with serving(store, folder, max_requests=10**6) as service:
        file_id = service.upload(requests(5000))
        real = keeper.store_batch

        def cancelled_meanwhile(ledger, path, batch, *arguments, **options):
            service.ask("POST", f"/v1/batches/{batch.id}/cancel")
            return real(ledger, path, batch, *arguments, **options)

        monkeypatch.setattr(keeper, "store_batch", cancelled_meanwhile)
        batch = service.until(service.create(file_id), "cancelled")
        assert batch["in_progress_at"] is None
    assert all_statuses(store) == []
    with store.reader.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM rows")).scalar() == 0


def test_an_upload_that_does_not_fit_the_disk_leaves_nothing(service, folder, monkeypatch, capfd):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(service.shelf, "write", full)
    answer = service.ask("POST", "/v1/files", form(b"x"), **{"content-type": "multipart/form-data; boundary=b"})
    assert (answer.status, answer.error["code"]) == (503, "unavailable")
    assert str(folder) not in answer.body.decode()
    assert "No space left" in capfd.readouterr().err
    assert list((folder / "files").iterdir()) == []
    assert service.get("/v1/files")["data"] == []


def test_what_is_no_route_is_told_and_leads_nowhere(service):
    """A redirect would repeat the `Host` that the request gave."""
    for method, path, status in (("GET", "/v1/files/", 404), ("GET", "/v1", 404), ("PUT", "/v1/files", 405)):
        answer = service.ask(method, path)
        assert (answer.status, answer.error["code"]) == (status, "invalid_request")
    assert "POST" in service.ask("PUT", "/v1/batches").headers["allow"]


def test_who_looks_at_an_ended_batch_need_not_wait_for_the_next_look(store, folder):
    with serving(store, folder, look=3600) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
        answer_all(store)
        assert service.batch(batch_id)["status"] in ("finalizing", "completed")
        service.until(batch_id, "completed")


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_client_that_hangs_up_leaves_nothing(service, folder, capfd):
    half = form(b"x" * 2**17)[: 2**16]
    service.ask("POST", "/v1/files", half, parts=[HANGS_UP], **{"content-type": "multipart/form-data; boundary=b"})
    service.ask("POST", "/v1/batches", b"{", parts=[HANGS_UP])
    assert list((folder / "files").iterdir()) == []
    assert service.get("/v1/files")["data"] == service.get("/v1/batches")["data"] == []
    assert capfd.readouterr().err == ""


def test_a_bad_line_fails_its_batch_and_is_named(service, store):
    content = requests(1) + requests(1, model="other").replace(b"r0", b"r1") + b"no json\n"
    batch = service.until(service.create(service.upload(content)), "failed")
    other, no_json = batch["errors"]["data"]
    assert (other["line"], no_json["line"]) == (2, 3)
    assert other["message"] == "`body.model` is not `m`, the model that is served"
    assert "is not JSON" in no_json["message"]
    assert batch["failed_at"] >= batch["created_at"]
    assert all_statuses(store) == []
    empty = service.until(service.create(service.upload(b"")), "failed")
    assert [(error["line"], error["message"]) for error in empty["errors"]["data"]] == [(None, "has no rows")]


def test_what_ends_a_batch_first_holds(service, store, folder):
    service.keeper.close()
    batch_id = service.create()
    assert cancel_batch(service.records, batch_id) is True
    assert cancel_batch(service.records, batch_id) is False
    change(store, "batches", "expires_at = 1")
    service.shelf.close()
    with serving(store, folder) as again:
        batch = again.until(batch_id, "cancelled")
        assert cancel_batch(again.records, batch_id) is False
        assert close_batch(again.records, batch_id, Outcome("completed", total=7)) is False
        assert again.batch(batch_id) == batch
