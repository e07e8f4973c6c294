"""What the live page does to jobs, over a real ledger: each action, who may do it, and what a form must prove."""

import csv
import io
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest

from endmark.cli.http.access import OPEN_ACCESS, read_access
from endmark.cli.http.guard import Limits
from endmark.cli.web.actions import Actions
from endmark.cli.web.door import COOKIE, Door
from endmark.cli.web.pages import Pages
from endmark.cli.web.sessions import Sessions
from endmark.cli.web.uploading import Uploads
from endmark.db.finetunings import add_finetuning, cancel_finetuning, claim_finetuning, report_finetuning
from endmark.db.jobs import load_job
from endmark.db.progress import all_statuses, job_status
from endmark.db.served import Caller
from endmark.jobs.finetuning.request import FinetuneProgress, FinetuneSpec
from endmark.jobs.vocabulary import Ending
from tests.integration.service_fixtures import submit
from tests.integration.store.ledger import answer, take
from tests.unit.asgi import ask

pytestmark = pytest.mark.integration

FORM = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
TOKEN = "a-token-of-sufficient-length"


@pytest.fixture(params=["sqlite"])
def dialect(request):
    return request.param


@pytest.fixture
def web(store):
    """The pages over a ledger, on this machine alone."""
    return made(store, OPEN_ACCESS)


def made(store, access, owned=()):
    sessions, woken = Sessions(), []
    pages = Pages(store, lambda caller: owned if caller.owner == "alice" else (), lambda: True)
    actions = Actions(pages, store, sessions, lambda *queue: woken.append(queue))
    uploads = Uploads(store, sessions, lambda *queue: woken.append(queue))
    app = Door(pages.app(*uploads.routes(), *actions.routes()), access, Limits(10_000), sessions)

    def post(path, key="", proof=None, told=FORM, **values):
        body = urlencode({"proof": sessions.proof(key) if proof is None else proof, **values}).encode()
        headers = {**told, "content-length": str(len(body)), "cookie": f"{COOKIE}={key}"}
        return ask(app, "POST", path, headers, [body])

    def upload(content, filename, key="", **values):
        fields = {"proof": sessions.proof(key), "model": "demo", **values}
        body = "".join(
            f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ).encode()
        body += f'--b\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'.encode()
        body += content + b"\r\n--b--\r\n"
        told = {**FORM, "content-type": "multipart/form-data; boundary=b", "content-length": str(len(body))}
        return ask(app, "POST", "/jobs", {**told, "cookie": f"{COOKIE}={key}"}, [body])

    def get(path, key=""):
        return ask(app, path=path, headers={"cookie": f"{COOKIE}={key}"})

    return SimpleNamespace(post=post, upload=upload, get=get, sessions=sessions, woken=woken)


def done(store, reason="eos", **about):
    """A job of three rows that have all ended so."""
    job = submit(store, ["=1+1", "b", "c"])
    answer(store, take(store), reason, **{"ending": Ending.SENTENCE, **about})
    return job


def test_a_job_is_paused_resumed_and_cancelled(store, web):
    job = submit(store, ["a"])
    for act, state in [("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")]:
        if act == "cancel":
            assert b"Cancel test?" in web.get(f"/jobs/{job}/cancel").body
        answered = web.post(f"/jobs/{job}/{act}")
        assert (answered.status, answered.headers["location"]) == (303, f"/jobs/{job}")
        assert job_status(store, job).state == state
    assert web.woken == [("m", None)]
    answered = web.post(f"/jobs/{job}/pause")
    assert answered.status == 409
    assert b"is cancelled and cannot be paused" in answered.body


def test_rows_are_asked_again_with_another_strategy(store, web):
    job = done(store, "length", ending=Ending.OPEN)
    assert b"3 truncated" in web.get(f"/jobs/{job}/retry").body
    for values, told in [
        ({"truncated": "on"}, b"would be cut again"),
        ({"strategies": "whole"}, b"Choose which rows"),
        ({"truncated": "on", "strategies": "hole"}, b"hole"),
        ({"truncated": "on", "budget": "many"}, b"is no number"),
        ({"failed": "on", "strategies": "whole"}, b"has no such rows"),
    ]:
        answered = web.post(f"/jobs/{job}/retry", **values)
        assert answered.status == 409
        assert told in answered.body
    assert job_status(store, job).succeeded == 3
    assert web.post(f"/jobs/{job}/retry", truncated="on", strategies="whole", budget="9").status == 303
    assert job_status(store, job).pending == 3
    spec = load_job(store, job).spec
    assert ([item.name for item in spec.strategies], spec.max_new_tokens) == (["whole"], 9)
    assert web.woken == [("m", None)]


def test_a_job_is_deleted_when_it_has_ended_and_after_a_question(store, web):
    job = submit(store, ["a"])
    assert web.get(f"/jobs/{job}/delete").status == 409
    assert web.post(f"/jobs/{job}/delete").status == 409
    web.post(f"/jobs/{job}/cancel")
    assert b"It cannot be undone." in web.get(f"/jobs/{job}/delete").body
    answered = web.post(f"/jobs/{job}/delete")
    assert (answered.status, answered.headers["location"]) == (303, "/")
    assert all_statuses(store) == []
    assert web.get(f"/jobs/{job}").status == 404


@pytest.mark.parametrize("act", ["pause", "resume", "cancel", "retry", "delete"])
def test_nothing_is_done_by_a_link_or_a_form_of_elsewhere(store, web, act):
    job = submit(store, ["a"])
    assert web.post(f"/jobs/{job}/{act}", proof="").status == 403
    assert web.post(f"/jobs/{job}/{act}", proof=Sessions().proof("")).status == 403
    assert web.post(f"/jobs/{job}/{act}", told={**FORM, "sec-fetch-site": "cross-site"}).status == 403
    web.get(f"/jobs/{job}/{act}")
    assert job_status(store, job).state == "queued"


def test_who_is_no_operator_reads_and_downloads_its_own_alone(store):
    mine, other = done(store), done(store)
    web = made(store, read_access(None, None, {"ENDMARK_TOKENS": f"alice:{TOKEN}"}), owned={mine})
    alice = web.sessions.begin(Caller("alice"))
    chief = web.sessions.begin(Caller("chief", operator=True))
    for path in ("", "/live", "/rows/0", "/export", "/cancel", "/delete", "/retry"):
        assert web.get(f"/jobs/{other}{path}", alice).status in (403, 404), path
        assert web.get(f"/jobs/{other}{path}", chief).status in (200, 409), path
    assert web.get(f"/jobs/{mine}/report", alice).status == 403
    assert b"/delete" not in web.get(f"/jobs/{mine}", alice).body
    for act in ("pause", "resume", "cancel", "retry", "delete"):
        assert web.post(f"/jobs/{mine}/{act}", alice).status == 403
    assert web.post(f"/jobs/{mine}/delete", chief).status == 303


def test_results_are_downloaded_as_files(store, web):
    job = done(store, text="=HYPERLINK(1)")
    answered = web.get(f"/jobs/{job}/export?format=csv")
    assert answered.status == 200
    assert answered.headers["content-disposition"] == f'attachment; filename="{job}.csv"'
    assert answered.headers["content-type"] == "application/octet-stream"
    rows = list(csv.DictReader(io.StringIO(answered.body.decode())))
    assert [row["prompt"] for row in rows] == ["'=1+1", "b", "c"], "no formula for a spreadsheet"
    assert rows[0]["response"] == "'=HYPERLINK(1)"
    assert web.get(f"/jobs/{job}/export?format=jsonl").body.count(b"\n") == 3
    assert web.get(f"/jobs/{job}/export?format=parquet").body.startswith(b"PAR1")
    assert web.get(f"/jobs/{job}/export?format=exe").status == 400
    assert web.get("/jobs/none/export").status == 404


def test_a_dataset_that_is_uploaded_becomes_a_job(store, web):
    answered = web.upload(
        b"id,prompt\n1,Hi\n2,Ho\n", "../night.csv", strategies="concise; no-loops", budget="77", trace="on"
    )
    assert answered.status == 303
    job = load_job(store, answered.headers["location"].removeprefix("/jobs/"))
    assert (job.name, job.total, job.columns) == ("night.csv", 2, ("id", "prompt"))
    assert [item.name for item in job.spec.strategies] == ["concise", "no-loops"]
    assert (job.spec.model, job.spec.max_new_tokens, job.spec.trace) == ("demo", 77, True)
    assert web.woken == [("demo", None)]


def test_prompts_that_are_typed_in_become_a_job(store, web):
    answered = web.post("/jobs", prompts="What can I do in Paris?\r\nAnd in Rome?\r\n", name="two towns")
    job = load_job(store, answered.headers["location"].removeprefix("/jobs/"))
    assert (job.name, job.total, job.spec.model) == ("two towns", 2, "demo")
    assert b"And in Rome?" in web.get(f"/jobs/{job.id}").body
    answered = web.post("/jobs", prompts="And in Oslo?", adapter="/on/the/workers")
    job = load_job(store, answered.headers["location"].removeprefix("/jobs/"))
    assert job.spec.adapter == "/on/the/workers"
    assert web.woken[-1] == ("demo", "/on/the/workers")


def test_a_dataset_that_cannot_be_used_is_told_line_by_line_and_nothing_is_stored(store, web):
    for content, filename, values, told in [
        (b"prompt\nHi\n \n", "night.csv", {}, b"night.csv:3: column `prompt` is empty"),
        (b"", "night.csv", {}, b"night.csv: is empty"),
        (b"\x89PNG\r\n\x1a\n", "night.csv", {}, b"night.csv"),
        (b"prompt\nHi\n", "night.csv", {"strategies": "hole"}, b"hole"),
        (b"prompt\nHi\n", "night.csv", {"budget": "x"}, b"the budget is no number"),
        (b"prompt\nHi\n", "night.csv", {"adapter": "./none"}, b"there is no adapter folder"),
        (b"prompt\nHi\n", "night.csv", {"prompts": "Hi"}, b"give either a file or prompts"),
        (b"", "", {}, b"give either a file or prompts"),
    ]:
        answered = web.upload(content, filename, name="kept", **values)
        assert answered.status == 400, told
        assert told in answered.body
        assert b"/tmp/" not in answered.body
        assert b'value="kept"' in answered.body
    assert all_statuses(store) == []
    assert web.upload(b"prompt\nHi\n", "night.csv", proof="").status == 403
    assert web.upload(b"x" * 100_000, "night.csv").status == 413


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_no_request_breaks_a_page(store, web):
    """A row's number of more than 64 bits was one that SQLite cannot take, and a NUL none that Postgres can."""
    job = done(store)
    odd = ["%00", "%F0%9F", "%ff", "..", "'", "%27;--", "9" * 30, "-1", "1e9", "%0d%0a", "x" * 3000, "%E2%80%A8"]
    paths = [
        "/jobs/{}",
        "/jobs/{}/rows/1",
        "/jobs/{}/live",
        "/jobs/{}/export",
        "/jobs/{}/retry",
        "/static/{}",
        "/{}",
    ]
    paths = [path.format(sign) for path in paths for sign in odd] + [f"/jobs/{job}/rows/{sign}" for sign in odd]
    assert {web.get(path).status for path in paths} <= {400, 404}
    for sign in (*odd, "1." + "9" * 15, "9" * 15):
        assert web.get(f"/jobs/{job}/export?format={sign}").status == 400
        for name in ("q", "ending", "order", "after", "before"):
            for more in ("", "&order=longest"):
                assert web.get(f"/jobs/{job}?{name}={sign}{more}").status == 200


def test_who_is_no_operator_stores_no_job(store):
    web = made(store, read_access(None, None, {"ENDMARK_TOKENS": f"alice:{TOKEN}"}))
    alice = web.sessions.begin(Caller("alice"))
    assert web.get("/jobs/new", alice).status == 403
    assert web.upload(b"prompt\nHi\n", "night.csv", alice).status == 403
    assert all_statuses(store) == []


def test_a_long_list_of_jobs_is_read_in_parts_and_searched(store, web):
    for number in range(30):
        submit(store, ["a"], name=f"night {number}.csv")
    shown = web.get("/").body.decode()
    assert shown.count('<li class="job">') == 25
    assert 'data-live="/live"' in shown
    assert "stored just now" in shown
    assert 'href="/?from=25">Older</a>' in shown
    shown = web.get("/?from=25").body.decode()
    assert shown.count('<li class="job">') == 5
    assert 'data-live="/live?from=25"' in shown
    assert 'href="/">Newer</a>' in shown
    shown = web.get("/?q=T+7.CSV").body.decode()
    assert shown.count('<li class="job">') == 1
    assert b"night 7.csv" in web.get("/live?q=T+7.CSV").body
    assert b"No job" in web.get("/?q=elsewhere").body


def test_fine_tunings_stand_beside_the_workers(store, web):
    assert b"Fine-tunings" not in web.get("/").body
    old = [add_finetuning(store, FinetuneSpec(dataset="d.jsonl", output=f"adapter-{n}")) for n in range(7)]
    for item in old:
        cancel_finetuning(store, item)
    running = add_finetuning(store, FinetuneSpec(dataset="chats.jsonl", output="my-adapter", model="m"))
    lease = claim_finetuning(store, running, model="m", worker="host:1")
    report_finetuning(store, lease, FinetuneProgress("training", 30, 250, 1.25, 90.0))
    shown = web.get("/").body.decode()
    assert shown.count(">cancelled<") == 5, "of those that have ended the newest"
    assert "<b>my-adapter</b>" in shown
    for told in ("step 30 of 250", "loss 1.2500", "1:30 left", "m, chats.jsonl"):
        assert told in shown
    assert (
        b"Fine-tunings" not in made(store, read_access(None, None, {"ENDMARK_TOKENS": f"a:{TOKEN}"})).get("/").body
    )
