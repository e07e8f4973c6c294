"""`endmark compare` on the bundled model, and its page in a real Chromium: opened from disk, filtered, browsed."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from endmark.cli.pages.arms import Answer, Arm
from endmark.cli.pages.report import Report, ShownRow, write_page
from endmark.jobs.sampling import TABLE
from endmark.jobs.vocabulary import ENDS, Ending
from tests.browser import browser
from tests.unit.test_reporting import HOSTILE

pytestmark = pytest.mark.integration

ENDMARK = Path(sys.executable).with_name("endmark")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A folder with the page of a comparison, and what the command printed."""
    folder = tmp_path_factory.mktemp("compare")
    with (ROOT / "examples" / "prompts.csv").open(newline="") as file:
        prompts = [line["prompt"] for line in csv.DictReader(file)][:23]
    with (folder / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt"], *[[prompt] for prompt in [*prompts, HOSTILE]]])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ENDMARK_")}
    environment |= {"ENDMARK_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}

    def call(*words):
        return subprocess.run(
            [ENDMARK, *words], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )

    words = ["--strategy", "concise;soft-landing", "--max-new-tokens", "60"]  # `baseline` stands beside one alone
    words += ["--engine", "endmark"]
    done = call("compare", "data.csv", *words, "--sample", "20", "-o", "report.html")
    (folder / "crowded.html").write_text(crowded(), encoding="utf-8")
    jobs = json.loads(call("status", "--json").stdout)
    alone = call("report", jobs[0]["id"], "-o", "alone.html")
    call("doctor", "demo", "--rows", "3", "--max-new-tokens", "16", "-o", "doctor.html")
    return folder, done, jobs, alone


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture
def opened(chromium):
    """Open a page from disk; what it says on the console, or asks the network for, fails the test."""
    said = []
    context = chromium.new_context(color_scheme="dark", viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)

    def open_page(path):
        page.goto(path.as_uri())
        return page

    yield open_page
    context.close()
    assert said == []


def test_the_same_rows_ran_as_jobs_of_their_own(compared):
    _, done, jobs, _ = compared
    assert [job["name"] for job in jobs] == ["data.csv: concise; soft-landing", "data.csv: baseline"]
    assert all(job["total"] == job["succeeded"] == 20 for job in jobs)
    lines = done.stdout.splitlines()
    assert lines[0].split("  ")[0] == "strategy"
    assert any(line.startswith("take `") for line in lines)
    assert any(line.startswith("24 rows  ") for line in lines)


def test_who_has_only_the_page_can_run_the_same_again(compared):
    """It told neither the budget nor how tokens were drawn."""
    page = (compared[0] / "report.html").read_text(encoding="utf-8")
    drawn = [item for item in TABLE if item.generation_config]  # which the model's own files could set otherwise
    options = " ".join(f"{item.option} {item.kind.write(item.default)}" for item in drawn)
    options = f"--model demo --max-new-tokens 60 {options}"
    assert "--temperature 0.0 --top-k 0 --top-p 1.0 --min-p 0.0" in options
    assert f"Run with <code>{options}</code>" in page


def test_the_page_is_browsed_and_filtered(compared, opened):
    page = opened(compared[0] / "report.html")
    assert page.title() == "Strategies on data.csv"
    assert page.locator("tbody tr").count() == 2
    assert page.locator("svg.lengths").count() == 2
    assert 2 <= page.locator(".curves polyline").count() <= 4  # bands, not a curve for each answer
    assert page.locator("#answers article").count() == 2
    assert page.locator("#answers mark").count() == 2
    assert page.locator("#differ").is_checked()
    assert 0 < int(page.locator("#count").inner_text()) < 20
    kinds = {page.locator("#answers article").nth(index).get_attribute("class") for index in (0, 1)}
    words = {page.locator("#answers mark").nth(index).inner_text() for index in (0, 1)}
    assert len(kinds) == 2 or len(words) == 2
    page.uncheck("#differ")
    first = page.locator("#prompt").inner_text()
    page.click("#next")
    second = page.locator("#prompt").inner_text()
    assert second != first
    page.keyboard.press("ArrowLeft")
    assert page.locator("#prompt").inner_text() == first
    page.fill("#words", second)
    assert page.locator("#prompt").inner_text() == second
    page.fill("#words", "no row has this")
    assert page.locator("#prompt").inner_text() == "No row fits."
    page.fill("#words", "")
    page.select_option("#arm", label="baseline")
    page.select_option("#ending", "cut")
    cut = int(page.locator("#count").inner_text())
    assert 0 < cut <= 20
    assert page.locator("#answers mark").first.inner_text().startswith("✂")
    page.select_option("#ending", "complete")
    complete = int(page.locator("#count").inner_text())  # a cut answer may be among them, by chance
    assert 0 < complete <= 20
    assert page.locator("#answers article").count() == 2


def crowded():
    """Return the page that has most to show: five arms with long names, every way to end, and a million rows."""
    texts = ["All is well.", "It stops in the", "x" * 300, HOSTILE, "| a | b |\n| - | - |\n" * 20]
    arms, columns = [], []
    for index in range(5):
        label = f"no-loops:min_tokens=48,copies={index};soft-landing:start=0.75,firm=0.95;trim"
        arm = Arm(
            label, f"3f2a91c{index}", "/models/a-model-with-a-long-name", None, 4096, 123_456.0, "--raw " * 30
        )
        arm.command = f"endmark run examples/everyday.csv --strategy '{label}' --model /models/{'x' * 90}"
        ending = list(Ending)
        column = [
            Answer(
                row, texts[row % 5], end, 4000 - 99 * row, 1, complete=row % 3 == index % 3, ending=ending[row % 7]
            )
            for row, end in enumerate((*ENDS, *ENDS))
        ]
        for answer in column:
            arm.count(answer)
        arms.append(arm)
        columns.append(column)
    trace = tuple(10.0 ** -(step % 7) for step in range(4000))
    rows = tuple(
        ShownRow(
            row, texts[-1 - row % 5], tuple(column[row] for column in columns), (trace[: 4000 - 99 * row],) * 5
        )
        for row in range(len(columns[0]))
    )
    return write_page(
        Report("Strategies on " + "a-long-name" * 9, tuple(arms), rows, len(rows), 1_000_000, "Now.")
    )


FAULTS = """() => {
  const out = [];
  const edge = document.documentElement.clientWidth;
  const told = (what, node) => out.push(`${what}: ${node.tagName} ${node.textContent.trim().slice(0, 40)}`);
  if (document.documentElement.scrollWidth > edge) out.push("the page is wider than the window");
  for (const node of document.querySelectorAll("body *")) {
    if (node.closest("select, template, head") || node.closest("details:not([open]) > :not(summary)")) continue;
    const box = node.getBoundingClientRect();
    if (!box.width) continue;
    if (box.left < -0.5 || box.right > edge + 0.5) told("beyond the window", node);
    const tight = !node.ownerSVGElement && node.clientWidth && node.scrollWidth > node.clientWidth + 1;
    if (tight) told("clipped", node);
    if (node.tagName === "text") {
      for (const other of node.ownerSVGElement.querySelectorAll("text")) {
        const beside = other.getBoundingClientRect();
        const across = beside.right > box.left && beside.left < box.right;
        const along = beside.bottom > box.top + 2 && beside.top < box.bottom - 2;
        if (other !== node && across && along) told("over another label", node);
      }
      const frame = node.ownerSVGElement.getBoundingClientRect();
      if (box.left < frame.left - 0.5 || box.right > frame.right + 0.5) told("outside its drawing", node);
      if (parseFloat(getComputedStyle(node).fontSize) * node.getScreenCTM().a < 8) told("too small to read", node);
    }
  }
  return out;
}"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report.html", "alone.html", "doctor.html", "crowded.html"])
def test_nothing_is_clipped_or_too_small(compared, opened, name, width, scheme):
    """The table was wider than a laptop's window, and the drawings' labels began left of them."""
    page = opened(compared[0] / name)
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    if name == "doctor.html":
        page.locator("details summary").first.click()
    assert page.evaluate(FAULTS) == []


def test_the_command_beneath_the_advice_is_one_click_away(compared, opened):
    page = opened(compared[0] / "report.html")
    command = page.locator("#command").inner_text()
    assert command.startswith("endmark run data.csv --engine endmark --strategy ")
    assert command in compared[1].stdout
    page.click("#copy")
    page.wait_for_function("['Copied', 'Selected'].includes(document.getElementById('copy').textContent)")
    assert page.evaluate("getSelection().toString()").strip() == command
    assert page.locator("tr.taken").count() == 1


def test_the_page_fits_a_phone_a_dark_room_and_paper(compared, opened):
    page = opened(compared[0] / "report.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.emulate_media(media="print")
    assert not page.locator("#filters").is_visible()
    assert page.locator("#answers").is_visible()


def test_the_page_of_one_job_has_no_advice_and_shows_hostile_text_as_text(compared, opened):
    folder, _, jobs, alone = compared
    assert "take `" not in alone.stdout
    page = opened(folder / "alone.html")
    assert page.locator("tbody tr").count() == 1
    assert page.locator(".advice").count() == 0
    assert jobs[0]["id"] in page.locator("body").inner_text()
    page.evaluate(
        "text => { data.rows[0].prompt = text; data.rows[0].answers[0].text = text; filter(); }", HOSTILE
    )
    assert (
        page.locator("#answers pre.answer").inner_text().startswith("</script><script>alert(1)</script><img src=x")
    )
    assert page.locator("#answers img").count() == 0
