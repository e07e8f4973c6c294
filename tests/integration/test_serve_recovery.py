"""Batches whose service was killed, or whose ledger was away, while their files were checked or written."""

import threading

import pytest
from sqlalchemy import text

from endmark.cli.serve import keeper, outcome
from endmark.cli.serve.shelf import Shelf
from endmark.db.jobs import cancel_job, load_job
from endmark.db.progress import all_statuses, job_status
from endmark.db.served_batches import due_batches, find_batch
from endmark.db.submission import add_rows, begin_job
from endmark.jobs.errors import UsageError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import JobState
from tests.integration.serve_fixtures import ALICE, CHIEF, TOKENS, requests, serving
from tests.integration.service_fixtures import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "serve"


def change(store, batch_id, assignments, **values):
    """Put a batch's record back to what a kill leaves."""
    with store.writer.begin() as connection:
        connection.execute(text(f"UPDATE batches SET {assignments} WHERE id = :id"), {"id": batch_id, **values})


def test_a_service_killed_before_it_noted_that_the_job_is_stored_finds_it_by_its_id(store, folder):
    """The next service stored the batch a second time, and all its requests were answered twice."""
    with serving(store, folder) as service:
        batch = service.until(service.create(), "in_progress")
        (job,) = all_statuses(store)
        wait_until(lambda: service.woken)
    change(store, batch["id"], "state = 'validating', times = '{}'")
    with store.writer.begin() as connection:
        connection.execute(text("UPDATE jobs SET name = 'another'"))
    with serving(store, folder) as service:
        assert service.until(batch["id"], "in_progress")["request_counts"]["total"] == 3
        assert find_batch(service.records, batch["id"]).job_id == job.id
    assert [item.id for item in all_statuses(store)] == [job.id]


def test_a_job_is_not_taken_for_a_batchs_by_its_name(store, folder):
    """Anybody may call a job like a batch, and its answers were then the batch's."""
    with serving(store, folder) as service:
        batch = service.until(service.create(), "in_progress")
        (job,) = all_statuses(store)
        assert load_job(store, job.id).name == batch["id"]
    change(store, batch["id"], "state = 'validating', job_id = NULL")
    with serving(store, folder) as service:
        service.until(batch["id"], "in_progress")
        assert find_batch(service.records, batch["id"]).job_id != job.id
    assert len(all_statuses(store)) == 2


def test_a_half_stored_job_is_stored_anew(store, folder):
    with serving(store, folder, look=3600) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
    half = begin_job(store, name="half", spec=GenerationSpec(model="m"))
    add_rows(store, half, 0, ['["x"]'])
    change(store, batch_id, "state = 'validating', job_id = :job", job=half)
    with serving(store, folder) as service:
        assert service.until(batch_id, "in_progress")["request_counts"]["total"] == 3
        assert find_batch(service.records, batch_id).job_id != half
    with store.reader.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs WHERE id = :id"), {"id": half}).scalar() == 0


@pytest.mark.parametrize("begun", [True, False])
def test_a_service_killed_before_it_cancelled_the_job_cancels_it(store, folder, begun):
    """Who asked had been told `cancelling`; the job ran on."""
    with serving(store, folder) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
        (job,) = all_statuses(store)
    assert job.state is JobState.QUEUED
    change(store, batch_id, "ending = 'cancelled', state = :state", state="in_progress" if begun else "validating")
    with serving(store, folder) as service:
        batch = service.until(batch_id, "cancelled")
        assert job_status(store, job.id).state is JobState.CANCELLED
        assert [line["error"]["code"] for line in service.lines(batch["error_file_id"])] == ["batch_cancelled"] * 3
        assert batch["output_file_id"] is None


def test_a_batch_cancelled_before_it_was_stored_is_never_stored(store, folder):
    with serving(store, folder) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
        (job,) = all_statuses(store)
    change(store, batch_id, "ending = 'cancelled', state = 'validating', job_id = 'ffffffff'")
    with serving(store, folder) as service:
        batch = service.until(batch_id, "cancelled")
        assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)
    assert [item.id for item in all_statuses(store)] == [job.id]


def test_a_service_killed_before_the_record_of_a_file_leaves_nothing(store, folder):
    with serving(store, folder) as service:
        kept = service.upload()
        half = service.shelf.begin()
        service.shelf.content(half).write_bytes(b"half")
        service.shelf.content(half).with_suffix(".errors.jsonl").write_bytes(b"half")
        (service.shelf.folder / "files" / ".endmark-1-ab.part").write_bytes(b"half")
        service.shelf.mark(kept)  # as a kill before its record was deleted leaves it
    with serving(store, folder) as service:
        assert [path.name for path in (folder / "files").iterdir()] == [f"{kept}.jsonl"]
        assert service.get("/v1/files")["data"][0]["id"] == kept


def test_a_batch_whose_job_was_deleted_fails(store, folder):
    with serving(store, folder) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
        with store.writer.begin() as connection:
            connection.execute(text("DELETE FROM jobs"))
        batch = service.until(batch_id, "failed")
        assert batch["errors"]["data"][0]["code"] == "job_not_found"


def test_a_job_that_its_operator_cancels_ends_its_batch(store, folder):
    with serving(store, folder) as service:
        batch_id, other = service.create(), service.create()
        for item in (batch_id, other):
            service.until(item, "in_progress")
        wait_until(lambda: due_batches(service.records) == [])
        cancel_job(store, find_batch(service.records, batch_id).job_id)
        batch = service.until(batch_id, "cancelled")
        assert len(service.lines(batch["error_file_id"])) == 3
        assert batch["cancelling_at"] is None
        assert service.batch(other)["status"] == "in_progress"


def test_the_files_of_a_batch_are_written_once(store, folder, monkeypatch):
    """Two who looked at an ended batch at the same time wrote its files twice."""
    with serving(store, folder) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
        cancel_job(store, all_statuses(store)[0].id)
        service.until(batch_id, "cancelled")
        for _ in range(5):
            service.keeper.wake()
        again = service.create()
        service.until(again, "in_progress")
        outputs = [item for item in service.get("/v1/files")["data"] if item["purpose"] == "batch_output"]
        assert len(outputs) == 1
        assert len(list((folder / "files").iterdir())) == 3


def test_a_look_while_the_files_are_written_writes_no_others(store, folder, monkeypatch):
    """Two who looked at an ended batch at the same time wrote its files twice."""
    export, expire = outcome.export_job, keeper.expire_batches
    written, begun, go_on, looks = [], threading.Event(), threading.Event(), threading.Semaphore(0)

    def held(*arguments, **options):
        written.append(arguments)
        begun.set()
        assert go_on.wait(30)
        return export(*arguments, **options)

    def counted(records):
        looks.release()
        expire(records)

    with serving(store, folder) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
        monkeypatch.setattr(outcome, "export_job", held)
        cancel_job(store, all_statuses(store)[0].id)
        service.keeper.wake()
        assert begun.wait(30)
        monkeypatch.setattr(keeper, "expire_batches", counted)
        for _ in range(3):  # the third look begins when the second has handed out what it found
            service.keeper.wake()
            assert looks.acquire(timeout=30)
        go_on.set()
        service.until(batch_id, "cancelled")
    assert len(written) == 1


def test_of_two_who_close_a_batch_at_once_the_first_one_s_files_stay(store, folder):
    """Another host's service may have found it due as well; the files of the second are deleted again."""
    with serving(store, folder) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
        batch = find_batch(service.records, batch_id)
        cancel_job(store, batch.job_id)
        closed = service.until(batch_id, "cancelled")
        files = sorted((folder / "files").iterdir())
        outcome.close_with_files(service.records, service.shelf, batch, job_status(store, batch.job_id))
        assert service.batch(batch_id) == closed
        assert sorted((folder / "files").iterdir()) == files


def test_a_full_disk_delays_the_files_and_is_told_once(store, folder, monkeypatch, capfd):
    real, failed = outcome.export_job, []

    def full(*arguments, **options):
        if len(failed) < 3:
            failed.append(1)
            raise UsageError("cannot write: No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(outcome, "export_job", full)
    with serving(store, folder) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
        cancel_job(store, all_statuses(store)[0].id)
        service.until(batch_id, "cancelled")
        assert not service.shelf.marked()
    assert capfd.readouterr().err.count("No space left") == 1
    assert len(failed) == 3


def test_an_unforeseen_failure_fails_the_batch_and_no_other(store, folder, monkeypatch, capfd):
    def broken(*arguments, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(outcome, "export_job", broken)
    with serving(store, folder) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
        cancel_job(store, all_statuses(store)[0].id)
        batch = service.until(batch_id, "failed")
        assert batch["errors"]["data"] == [
            {
                "code": "internal_error",
                "message": "the service has failed on this batch",
                "line": None,
                "param": None,
            }
        ]
        assert not service.shelf.marked()
        service.until(service.create(), "in_progress")
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_trouble_that_comes_again_is_told_again(store, folder, monkeypatch, capfd):
    def failing(real, error):
        left = [error, error]

        def called(*arguments, **options):
            if left:
                raise left.pop()
            return real(*arguments, **options)

        return called

    monkeypatch.setattr(keeper, "store_batch", failing(keeper.store_batch, OSError("cannot be read yet")))
    monkeypatch.setattr(outcome, "export_job", failing(outcome.export_job, UsageError("cannot be written yet")))
    with serving(store, folder) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
        cancel_job(store, all_statuses(store)[0].id)
        service.until(batch_id, "cancelled")
    said = capfd.readouterr().err
    assert said.count("waits: cannot be read yet") == said.count("waits: cannot be written yet") == 1


def test_a_batch_that_was_closed_meanwhile_is_let_alone(store, folder, monkeypatch):
    """A look may have found it due while its files were written."""
    due, written, seen = keeper.due_batches, [], []

    def stale(records):
        seen.extend(due(records))
        return list(dict.fromkeys(seen))

    def counted(*arguments, **options):
        written.append(arguments)
        return export(*arguments, **options)

    export = outcome.export_job
    monkeypatch.setattr(keeper, "due_batches", stale)
    monkeypatch.setattr(outcome, "export_job", counted)
    with serving(store, folder) as service:
        batch_id = service.create()
        service.until(batch_id, "in_progress")
        cancel_job(store, all_statuses(store)[0].id)
        service.until(batch_id, "cancelled")
        service.until(service.create(), "in_progress")
    assert len(written) == 1


@pytest.mark.parametrize("dialect", ["postgres"])
def test_a_batch_waits_while_the_ledger_is_away(store, folder, postgres, capfd):
    """It failed for good, though nothing was wrong with its file; a bad file fails all the same."""
    with serving(store, folder, look=0.05) as service:
        file_id = service.upload()
        batch_id = service.create(file_id)
        job_id = find_batch(service.records, service.until(batch_id, "in_progress")["id"]).job_id
        postgres.stop()
        try:
            change_failed = service.ask("GET", "/v1/batches")
            assert (change_failed.status, change_failed.error["code"]) == (503, "unavailable")
            assert "postgres" not in change_failed.error["message"]
            said = []
            wait_until(lambda: said.append(capfd.readouterr().err) or "batches wait" in "".join(said))
        finally:
            postgres.start()
        service.until(service.create(file_id), "in_progress")
        assert job_status(store, job_id).total == 3
        bad = service.until(service.create(service.upload(b"no json\n")), "failed")
        assert bad["errors"]["data"][0]["line"] == 1
    assert len(all_statuses(store)) == 2


def test_two_services_do_not_share_a_folder(tmp_path):
    shelf = Shelf(tmp_path)
    with pytest.raises(UsageError, match="another `endmark serve`"):
        Shelf(tmp_path)
    shelf.close()
    again = Shelf(tmp_path)
    assert again.id == shelf.id
    again.close()


def test_a_folder_with_a_damaged_id_is_refused(tmp_path):
    (tmp_path / "id").write_text("../x\n")
    with pytest.raises(UsageError, match="does not hold the id"):
        Shelf(tmp_path)
    (tmp_path / "id").unlink()
    Shelf(tmp_path).close()


@pytest.mark.parametrize("name", ["files", "lock", "id"])
def test_a_folder_that_cannot_be_used_is_named(tmp_path, name):
    """The error was called a bug in Endmark."""
    folder = tmp_path / "serve"
    folder.mkdir()
    (folder / name).mkdir() if name != "files" else (folder / name).write_bytes(b"")
    with pytest.raises(UsageError, match=f"cannot use the folder `{folder}`: ") as caught:
        Shelf(folder)
    assert "ENDMARK_HOME" in caught.value.hint


def test_two_folders_of_one_ledger_keep_apart(store, tmp_path):
    with (
        serving(store, tmp_path / "a", environ=TOKENS) as one,
        serving(store, tmp_path / "b", environ=TOKENS) as other,
    ):
        file_id = one.upload(requests(1), token=ALICE)
        batch_id = one.create(file_id, token=ALICE)
        one.until(batch_id, "in_progress", token=ALICE)
        for token in (ALICE, CHIEF):
            assert other.get("/v1/files", token)["data"] == other.get("/v1/batches", token)["data"] == []
            assert other.ask("GET", f"/v1/batches/{batch_id}", token=token).status == 404
            assert other.ask("GET", f"/v1/files/{file_id}/content", token=token).status == 404
        assert other.records.hand_over("alice", "bob") == 0
        assert one.get(f"/v1/files/{file_id}", ALICE)["id"] == file_id


def test_a_service_killed_while_it_deletes_a_file_deletes_it_at_its_next_start(store, folder, monkeypatch):
    with serving(store, folder) as service:
        file_id = service.upload()

        def killed(_):
            raise OSError

        monkeypatch.setattr(service.shelf, "remove", killed)
        assert service.ask("DELETE", f"/v1/files/{file_id}").status == 503
        assert service.get("/v1/files")["data"] == []
    with serving(store, folder):
        assert list((folder / "files").iterdir()) == []


def test_a_service_that_ends_waits_for_what_it_is_at_and_breaks_it_off(store, folder, monkeypatch):
    """The ledger was closed under a check that went on."""
    started, release, ended = threading.Event(), threading.Event(), []
    real = keeper.store_batch

    def slow(*arguments, **options):
        started.set()
        release.wait(30)
        try:
            return real(*arguments, **options)
        finally:
            ended.append(options["ended"]())

    monkeypatch.setattr(keeper, "store_batch", slow)
    with serving(store, folder) as service:
        batch_id = service.create()
        assert started.wait(30)
        threading.Timer(0.1, release.set).start()
    assert ended == [True]
    assert all_statuses(store) == []
    monkeypatch.undo()
    with serving(store, folder) as service:
        assert service.until(batch_id, "in_progress")["request_counts"]["total"] == 3
