"""The live page in a real Chromium over a real ledger: read, searched, followed, and checked for accessibility."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import expect

from endmark.db.attempts import commit
from endmark.db.connection import open_store
from endmark.db.jobs import cancel_job, delete_job, pause_job, resume_job
from endmark.db.progress import all_statuses
from endmark.db.rows import unfinished_rows
from endmark.db.shards import finish
from endmark.db.workers import report_worker
from endmark.jobs.progress import WorkerReport
from endmark.jobs.vocabulary import Attempt, Ending, EosSource, EosTrace, FinishReason, Outcome, Verdict
from tests.browser import browser
from tests.integration.ports import free_port
from tests.integration.serve_fixtures import ALICE, CHAT, CHIEF, TOKENS, form, requests
from tests.integration.service_fixtures import submit, wait_until
from tests.integration.store.ledger import outcome, take
from tests.integration.test_report_page import FAULTS
from tests.unit.test_reporting import HOSTILE

pytestmark = pytest.mark.integration

ENDMARK = Path(sys.executable).with_name("endmark")
AXE = files("axe_core_python").joinpath("axe.min.js")
RULES = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']}"
ROWS = 60
LABELS = {"no": 0.25, "Cut no more.": 0.75}  # of one row
WORKER = WorkerReport("host:1", "NVIDIA H100", "m", None, "packed", 1234.0, weight_bytes=2**32, kv_tokens=9)


@contextmanager
def service(folder, *words, **environ):
    """Run a command that serves; yields its address."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ENDMARK_")}
    environment |= {"ENDMARK_HOME": str(folder), **environ}
    process = subprocess.Popen([ENDMARK, *words], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        said = ""
        while not (found := re.search(r"on (http://[^/\s]+)", said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)  # although pages are open that are shown live


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """A folder with a ledger: one job that has ended in all ways, one that waits; and the ledger."""
    folder = tmp_path_factory.mktemp("web")
    with open_store(f"sqlite:///{folder / 'endmark.db'}") as store:
        done = submit(store, [HOSTILE if row == 3 else f"Prompt {row}?" for row in range(ROWS)], shard_size=20)
        reasons = ("eos", "length", "stop_sequence", "repetition", "error")
        while (lease := take(store)) is not None:
            made = [
                outcome(
                    item.row,
                    reasons[item.row % 5],
                    ending=None if item.row % 5 == 4 else Ending.OPEN if item.row % 5 else Ending.SENTENCE,
                    text=HOSTILE if item.row == 3 else f"Answer {item.row}. " * 40,
                )
                for item in unfinished_rows(store, lease)
            ]
            made = [traced() if item.attempts[-1].row == 7 else item for item in made]
            commit(store, lease, made)
            finish(store, lease)
        running = submit(store, ["Prompt."] * 8, shard_size=4)
        report_worker(store, WORKER)
        yield folder, store, done, running


def traced():
    """Two attempts of a row, the second with its curve."""
    trace = EosTrace(0.9, 2, 0, 0, (0.001, 0.1, 0.9))
    cut = Attempt(7, 1, "Cut", Verdict(FinishReason.LENGTH), 5, 3, EosTrace(0.1), ending=Ending.OPEN)
    whole = Verdict(FinishReason.EOS, EosSource.BOOSTED)
    return Outcome(
        0,
        (cut, Attempt(7, 2, "Cut no more.", whole, 5, 6, trace, "continue", Ending.SENTENCE, choice_probs=LABELS)),
    )


@pytest.fixture(scope="module")
def place(ledger):
    with service(ledger[0], "web", "--port", str(free_port())) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture
def page(chromium):
    """A page; what it says on the console fails the test."""
    said = []
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    # Chromium tells of every answer 4xx by itself.
    opened.on("console", lambda message: said.append(message.text) if " 40" not in message.text else None)
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: said.append(dialog.message))
    yield opened
    context.close()
    assert said == []


def faults(page):
    """What axe finds wrong, a line each."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(f"axe.run(document, {RULES})")
    return [f"{item['id']}: {node['html']}" for item in found["violations"] for node in item["nodes"]]


# Where the first and the last character of a text stand, from the left.
PLACES = """node => [0, node.firstChild.length - 1].map(at => {
  const range = document.createRange();
  range.setStart(node.firstChild, at);
  range.setEnd(node.firstChild, at + 1);
  return range.getBoundingClientRect().left;
})"""
READ = ["/", "/jobs/{done}", "/jobs/{done}/rows/7", "/jobs/{running}", "/jobs/none"]
ASKING = ["/jobs/new", "/jobs/{done}/retry", "/jobs/{done}/delete", "/jobs/{running}/cancel"]


@pytest.mark.parametrize("path", [*READ, *ASKING])
def test_every_page_is_readable_at_every_width_in_both_schemes(ledger, place, chromium, path):
    path = path.format(done=ledger[2], running=ledger[3])
    for width, scheme in [(1280, "light"), (390, "dark")]:
        with chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
            page = context.new_page()
            page.goto(place + path)
            assert faults(page) == [], (width, scheme)
            for summary in page.locator("summary").all():
                summary.click()
            assert page.evaluate(FAULTS) == [], (width, scheme)


def test_rows_are_filtered_searched_paged_and_opened(ledger, place, page):
    page.goto(place)
    page.click(f"#job-{ledger[2]}")
    expect(page.locator(".rows li")).to_have_count(25)
    page.click("a[rel=next]")
    expect(page.locator(".rows a").first).to_have_text("25 Prompt 25?", use_inner_text=True)
    page.click("a[rel=next]")
    expect(page.locator(".rows li")).to_have_count(ROWS - 50)
    expect(page.locator("a[rel=next]")).to_have_count(0)
    page.click("a[rel=prev]")
    expect(page.locator(".rows a").first).to_have_text("25 Prompt 25?", use_inner_text=True)
    page.click("#end-repetition")
    expect(page.locator(".rows mark")).to_have_text(
        ["✂ cut: it repeated itself, mid-sentence"] * 12, use_inner_text=True
    )
    page.fill("input[name=q]", "prompt 13?")
    page.press("input[name=q]", "Enter")
    page.wait_for_url("**q=prompt+13*")
    assert page.locator(".rows a").all_inner_texts() == ["13 Prompt 13?"]
    page.fill("input[name=q]", "no row has this")
    page.press("input[name=q]", "Enter")
    page.wait_for_url("**q=no+row*")
    expect(page.locator(".empty")).to_have_text("No such rows.", use_inner_text=True)


def test_a_row_shows_where_its_answer_stops_and_what_was_tried_before(ledger, place, page):
    page.goto(f"{place}/jobs/{ledger[2]}/rows/7")
    expect(page.locator("main > article pre.answer")).to_have_text(
        "Cut no more. ■ EOS, boosted by the strategy", use_inner_text=True
    )
    assert page.locator("main > article polyline").get_attribute("points").count(",") == 3
    expect(page.locator("main > article circle")).to_have_count(1)
    assert "Cut no more. 75.0 %\nno 25.0 %" in page.locator("main > article .figures").inner_text().replace(
        "\xa0", " "
    )
    page.click("summary")
    assert "✂ cut: the token budget ran out, mid-sentence" in page.locator("details pre").inner_text()
    page.click("a[rel=next]")
    expect(page.locator("h1")).to_have_text("Row 8 of 60", use_inner_text=True)


def test_what_a_model_writes_is_shown_as_text(ledger, place, page):
    for path in (f"/jobs/{ledger[2]}", f"/jobs/{ledger[2]}/rows/3"):
        page.goto(place + path)
        expect(page.locator("main img")).to_have_count(0)
        assert "</script><script>alert(1)</script>" in page.locator("main").inner_text()


def test_an_answer_is_near_however_long_its_prompt(ledger, place, chromium):
    """A prompt of 18,000 tokens made a phone's page of 55,000 px, with the answer at its end."""
    _, store, _, waiting = ledger
    pause_job(store, waiting)
    job = submit(store, ["word " * 9000, "Short."])
    lease = take(store)
    commit(store, lease, [outcome(0, ending=Ending.SENTENCE), outcome(1, "error", ending=Ending.EMPTY)])
    finish(store, lease)
    with chromium.new_context(viewport={"width": 390, "height": 780}) as context:
        page = context.new_page()
        page.goto(f"{place}/jobs/{job}/rows/0")
        assert page.locator("article").bounding_box()["y"] < 780
        page.focus(".asked")
        page.keyboard.press("End")
        wait_until(lambda: page.locator(".asked").evaluate("node => node.scrollTop") > 1000)
        assert faults(page) == []
        page.goto(f"{place}/jobs/{job}/rows/1")
        assert page.locator("mark").inner_text() == "■ failed"
    resume_job(store, waiting)
    delete_job(store, job)


def test_a_text_goes_in_the_direction_of_its_script(ledger, place, page):
    """The question mark of an Arabic prompt stood at its right, where the sentence begins."""
    job = submit(ledger[1], ["\u0645\u0627 \u0647\u064a\u061f!", "What?!"])
    for path in (f"/jobs/{job}", f"/jobs/{job}/rows/0", f"/jobs/{job}/rows/1"):
        page.goto(place + path)
        text = page.locator(".rows bdi, .asked").first
        ends = text.evaluate(PLACES)
        assert (ends[0] > ends[1]) is not path.endswith("/1")
    cancel_job(ledger[1], job)
    delete_job(ledger[1], job)


def test_all_is_reached_by_keyboard(ledger, place, page):
    page.goto(place)
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["Skip to content", "Endmark", "New job", f"job-{ledger[3]}", f"job-{ledger[2]}"]
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/jobs/{ledger[2]}")


def test_rows_come_where_they_stand_and_a_filtered_list_says_how_many_more_there_are(ledger, place, page):
    """The rows of a job that ran were those of the moment when its page was opened, until a reload."""
    _, store, _, waiting = ledger
    pause_job(store, waiting)
    job = submit(store, [f"Ask {row}?" for row in range(30)], shard_size=10)
    filtered = page.context.new_page()
    page.goto(f"{place}/jobs/{job}")
    filtered.goto(f"{place}/jobs/{job}?ending=truncated")
    expect(filtered.locator(".empty")).to_have_text("No such rows.", use_inner_text=True)
    expect(filtered.locator("#more")).to_be_hidden()
    page.focus(".rows li:nth-child(2) a")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.rows li:nth-child(3) bdi'))")
    lease = take(store)
    ends = ["eos", "length"]
    commit(store, lease, [outcome(row, ends[row % 2], ending=Ending.OPEN, text=f"So {row}.") for row in range(4)])
    expect(page.locator("#row-1")).to_contain_text("So 1. ✂ cut")
    expect(page.locator("#row-4")).to_have_text("no result yet")
    assert page.evaluate("document.activeElement.textContent") == "1 Ask 1?"
    assert page.evaluate("getSelection().toString()") == "Ask 2?"
    expect(page.locator("#more"), "a list of all rows lacks none").to_be_hidden()
    button = filtered.get_by_role("button", name="2 more rows: show")
    button.focus()
    commit(store, lease, [outcome(5, "length", ending=Ending.OPEN)])
    expect(filtered.locator("#more")).to_have_text("3 more rows: show")
    assert faults(filtered) == []
    filtered.keyboard.press("Enter")
    expect(filtered.locator(".rows a")).to_have_text(["1 Ask 1?", "3 Ask 3?", "5 Ask 5?"])
    expect(filtered.locator("#more")).to_be_hidden()
    cancel_job(store, job)
    resume_job(store, waiting)
    delete_job(store, job)


def test_progress_comes_without_a_reload_and_ends_with_the_job(ledger, place, page):
    _, store, _, running = ledger
    page.goto(f"{place}/jobs/{running}")
    report_worker(store, WORKER)  # or it may have been silent for too long
    state = page.locator(".state")
    assert state.inner_text() == "queued"
    lease = take(store)
    commit(store, lease, [outcome(row, ending=Ending.SENTENCE) for row in range(4)])
    figures = page.locator(".figures").first
    expect(figures).to_contain_text("4 / 8 rows")
    assert state.inner_text() == "running"
    page.focus("#end-natural")
    finish(store, lease)
    lease = take(store)
    commit(store, lease, [outcome(row, "length", ending=Ending.OPEN) for row in range(4, 8)])
    expect(figures).to_contain_text("8 / 8 rows")
    assert page.evaluate("document.activeElement.id") == "end-natural", "the focus stays where it was"
    finish(store, lease)
    expect(state).to_have_text("completed")


def test_a_job_is_made_paused_cancelled_and_deleted_by_hand(ledger, place, page):
    page.goto(place)
    page.click("text=New job")
    page.fill("textarea", "What can I do in Paris?")
    page.fill("input[name=model]", "demo")
    page.fill("input[name=strategies]", "hole")
    page.click("form.tall > button")
    assert "hole" in page.locator("[role=alert]").inner_text()
    assert page.locator("textarea").input_value() == "What can I do in Paris?"
    page.fill("textarea", "")
    page.set_input_files(
        "input[name=file]",
        {"name": "x.csv", "mimeType": "text/csv", "buffer": "id;prompt\n1;ü\n".encode("latin-1")},
    )
    page.fill("input[name=strategies]", "concise")
    page.click("form.tall > button")
    told = page.locator("[role=alert]").inner_text()
    assert "x.csv:2: is not UTF-8" in told
    assert "iconv" in told
    assert "--skip-bad-rows" not in told
    page.fill("textarea", "What can I do in Paris?")
    page.click("form.tall > button")
    expect(page.locator("h1")).to_contain_text("prompts.txt")
    page.click("#pause")
    expect(page.locator(".state")).to_have_text("paused")
    page.click("#resume")
    expect(page.locator(".state")).to_have_text("waiting for a worker")
    assert page.locator("p.soft code").inner_text() == "endmark worker"
    page.click("#cancel")
    page.click("text=Let it run")
    page.click("#cancel")
    page.click("text=Cancel the job")
    expect(page.locator(".state")).to_have_text("cancelled")
    page.click("#delete")
    page.click("text=Delete the job")
    page.wait_for_url(f"{place}/")
    expect(page.locator("text=prompts.txt")).to_have_count(0)


def test_the_report_is_as_far_as_the_job(ledger, place, page):
    page.goto(f"{place}/jobs/{ledger[2]}")
    page.click("#report")
    assert page.title() == "How test ended"
    page.click("text=Back to the job")
    page.click("#report")
    assert page.locator("#count").inner_text() == str(ROWS)
    page.select_option("#ending", "cut")
    assert page.locator("#count").inner_text() == str(ROWS * 2 // 5), "its own script runs"


def test_results_are_downloaded(ledger, place, page):
    page.goto(f"{place}/jobs/{ledger[2]}")
    page.select_option("select[name=format]", "jsonl")
    with page.expect_download() as waited:
        page.click("text=Download")
    assert waited.value.suggested_filename == f"{ledger[2]}.jsonl"
    assert Path(waited.value.path()).read_text().count("\n") == ROWS  # texts hold other ends of lines


def test_each_token_shows_its_own_jobs_and_an_operators_all(ledger, page):
    folder, store, done, _ = ledger
    with service(folder, "serve", "--port", str(free_port()), **TOKENS) as place:
        told = {"authorization": f"Bearer {ALICE}", "content-type": "multipart/form-data; boundary=b"}
        with urlopen(Request(f"{place}/v1/files", form(requests(2, "demo")), told)) as answer:
            file_id = json.load(answer)["id"]
        batch = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
        with urlopen(Request(f"{place}/v1/batches", json.dumps(batch).encode(), told)) as answer:
            batch_id = json.load(answer)["id"]
        wait_until(lambda: any(item.name == batch_id for item in all_statuses(store)))
        page.goto(f"{place}/jobs/{done}")
        assert page.title() == "Sign in – Endmark"
        assert faults(page) == []
        page.fill("input[name=token]", ALICE)
        page.press("input[name=token]", "Enter")
        page.wait_for_url(f"{place}/jobs/{done}")
        assert page.locator("main p").first.inner_text() == f"No job `{done}`."
        page.click("text=All jobs")
        expect(page.locator(".job")).to_have_count(1)
        page.click(f"text={batch_id}")
        expect(page.locator(".rows li")).to_have_count(2)
        expect(page.locator("details"), "where the model lies is an operator's to know").to_have_count(0)
        page.click("text=Sign out")
        page.fill("input[name=token]", CHIEF)
        page.press("input[name=token]", "Enter")
        page.wait_for_url(f"{place}/")
        expect(page.locator(".job")).to_have_count(3)
        report_worker(store, WORKER)
        expect(page.locator(".workers li")).to_have_count(1)
        assert faults(page) == []
