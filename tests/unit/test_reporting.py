"""The figures of a report, its advice, and that nothing a model writes gets out of its place in the page."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from endmark.cli.pages.advice import recommend
from endmark.cli.pages.arms import Answer, Arm
from endmark.cli.pages.curves import LEVELS, axes, band, encoded, stretch
from endmark.cli.pages.intervals import mean_of, paired_p, wilson
from endmark.cli.pages.lengths import lengths
from endmark.cli.pages.report import Report, ShownRow, span, write_page
from endmark.cli.pages.table import tabled
from endmark.jobs.vocabulary import ENDS, End, Ending, EosSource, FinishReason

pytestmark = pytest.mark.unit

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> <!-- \"'& \u2028 \u202e"


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # R's prop.test(count, total, correct=FALSE)$conf.int
    [(5, 10, 0.2366, 0.7634), (1, 29, 0.0061, 0.1718), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],
)
def test_wilson_is_what_r_says(count, total, low, high):
    share = wilson(count, total)
    assert (round(share.low, 4), round(share.high, 4)) == (low, high)
    assert share.value == count / total
    assert wilson(0, 0).high == 1.0


def test_paired_test_is_the_binomial_one_and_meets_its_approximation():
    assert paired_p(0, 0) == 1.0
    assert paired_p(0, 5) == 2 / 32
    assert paired_p(2, 8) == paired_p(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert paired_p(470, 531) == pytest.approx(paired_p(469, 530), abs=0.003)  # one is counted, one approximated


def test_mean_and_its_interval():
    values = [1.0, 2.0, 3.0, 4.0]
    mean = mean_of(sum(values), sum(value * value for value in values), 4)
    half = 1.959964 * math.sqrt(5 / 3 / 4)
    assert (mean.value, mean.low, mean.high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))


def answer(row, ending="natural", text="All is well.", tokens=10, **other):
    (end,) = [end for end in ENDS if end.name == ending]
    complete = end.reason.has_answer and not end.reason.truncated and text.endswith(".")
    return Answer(row, text, end, tokens, 1, complete=complete, **other)


def arm(label, answers, speed=100.0):
    made = Arm(label, f"job-{label}", "demo", None, 64, speed)
    for item in answers:
        made.count(item)
    return made


def test_an_arm_counts_what_its_answers_are():
    counted = arm(
        "x",
        [
            answer(0),
            answer(1, text="It stops in the"),
            replace(answer(2, "length", "Cut.", 64), ending=Ending.LOOP),
            answer(3, "error", "", 0, error="too long"),
            answer(4, "stop_sequence", "Here.", stop_sequence="#"),
        ],
    )
    assert (counted.total, counted.answered) == (5, 4)
    assert counted.complete_rows == {0, 4}
    assert counted.at_sentence_end.value == 3 / 5
    assert counted.truncated.value == counted.looped.value == 1 / 5
    assert counted.tokens.value == (10 + 10 + 64 + 10) / 4
    assert counted.seconds_for(50) == pytest.approx(94 / 100 / 5 * 50)
    table = tabled([counted], 50)
    values = {name: cell.value for name, cell in zip(table.headings, table.lines[0], strict=True)}
    assert values["complete"] == "40 %"
    assert values["stop sequence"] == values["length"] == values["failed"] == "20 %"
    assert values["50 rows"] == "0:09"


def test_rows_that_ended_in_their_thought_have_a_column_where_there_are_any():
    plain, thinking = arm("plain", [answer(0)]), arm("thinking", [answer(0), answer(1, text="", in_thought=True)])
    assert "in a thought" not in tabled([plain], None).headings
    assert "in a thought" not in tabled([plain], None).folded
    table = tabled([plain, thinking], None)
    column = table.headings.index("in a thought")
    assert [line[column].value for line in table.lines] == ["0 %", "50 %"]


def test_an_answer_is_read_from_an_exported_row():
    values = {"response": "Hi.", "finish_reason": "eos", "eos_source": "forced", "completion_tokens": 3}
    values |= {"attempts": 2, "stop_sequence": None, "error": None, "eos_prob_max": 0.5, "complete": True}
    values |= {"ending": "sentence", "reasoning": None, "ended_in": "answer", "valid": None}
    values |= {"weights": "packed"}
    forced = End(FinishReason.EOS, EosSource.FORCED)
    assert Answer.of(7, values) == Answer(
        7, "Hi.", forced, 3, 2, eos_prob_max=0.5, complete=True, ending=Ending.SENTENCE, weights="packed"
    )
    assert Answer.of(7, {**values, "finish_reason": None}) is None
    inside = Answer.of(7, {**values, "reasoning": "Hm.", "ended_in": "reasoning"})
    assert (inside.reasoning, inside.in_thought) == ("Hm.", True)
    assert Answer.of(7, {**values, "finish_reason": "cancelled"}).end == End(FinishReason.CANCELLED)


def test_a_report_says_with_which_weights_the_answers_were_computed():
    """Workers of one job may hold other weights, and what one arm has been answered with the other may not."""
    first, second = (
        arm(name, [answer(row, weights=word) for row, word in enumerate(words)])
        for name, words in (("baseline", ["packed"] * 3), ("whole", ["packed", "vllm: nf4", None]))
    )
    assert "; weights packed; 3 rows;" in write_page(Report("t", (first,), (), 3))
    several = write_page(Report("t", (first, second), (), 3))
    assert "weights packed (4 answers), vllm: nf4 (1 answer), not noted (1 answer);" in several


def test_advice_takes_the_least_interference_of_what_is_equally_good():
    base = arm("baseline", [answer(row, "natural" if row < 60 else "length") for row in range(100)])
    boosted = arm("soft-landing", [answer(row, "natural" if row < 60 else "boosted") for row in range(100)])
    forced = arm("eos-reward", [answer(row, "natural" if row < 50 else "forced") for row in range(99)])
    advice = recommend([base, boosted, forced])
    assert advice.arm is boosted
    assert advice.reasons[0].startswith("100 % (96 % to 100 %) of its answers are complete")
    assert "`baseline`: 60 % (50 % to 69 %) complete, which is fewer than chance explains" in advice.reasons
    assert any(
        "fewer ended by themselves: 51 % against 60 % (0 % boosted, 49 % forced)" in why for why in advice.reasons
    )
    assert recommend([base]) is None
    assert recommend([base, arm("nothing", [])]) is None


def report(text=HOSTILE):
    one = arm(text, [answer(0, text=text, stop_sequence=text, error=text)])
    other = arm("other", [answer(0, "length", tokens=64)])
    row = ShownRow(0, text, (answer(0, text=text, stop_sequence=text), None), ((0.5, 1e-9, 1.0), ()))
    return Report(text, (one, other), (row,), 1, 10, "Made now.")


class Attributes(HTMLParser):
    """Collects the names of all elements and attributes."""

    def __init__(self):
        super().__init__()
        self.tags, self.names = set(), set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.names.update(name for name, _ in attrs)


def test_nothing_hostile_leaves_its_place():
    page = write_page(report())
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page
    assert "alert(1)</script>" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    parser = Attributes()
    parser.feed(page)
    assert parser.tags.isdisjoint({"img", "iframe", "object", "link", "a", "base"})
    assert not [name for name in parser.names if name in ("src", "href", "style") or name.startswith("on")]
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["rows"][0]["prompt"] == HOSTILE
    assert data["rows"][0]["answers"][1] is None
    assert data["rows"][0]["answers"][0]["kind"] == "cut"


def test_the_edge_of_a_histogram_is_where_its_last_bar_ends():
    drawn = lengths(arm("x", [answer(0, tokens=60)]), 60)
    assert [bar.told for bar in drawn.bars] == ["60 to 62 tokens: 1 complete"]
    assert drawn.edge == 63  # 21 bars of 3: with 24 of them answers of at most 120 tokens had an axis to 144
    assert drawn.bars[0].x + drawn.bars[0].width == 399.0


def test_columns_that_are_none_in_every_arm_are_folded():
    """A table of three arms had six columns of `0 %`, and did not fit the page."""
    table = tabled([arm("a", [answer(0)]), arm("b", [answer(0, "length")])], None)
    assert table.headings == (
        "strategy",
        "complete",
        "natural EOS",
        "length",
        "truncated",
        "ends a sentence",
        "tokens",
        "tokens/s",
    )
    assert {"boosted", "forced", "repetition", "failed", "in a loop"} <= set(table.folded)
    assert not set(table.folded) & set(table.headings)
    assert {len(line) for line in table.lines} == {len(table.headings)}
    whole = tabled([arm("a", [answer(0)])], None)
    assert "truncated" in whole.headings  # that none was cut is worth a column


def test_a_band_is_the_middle_half_and_ends_where_few_answers_go_on():
    """Forty curves in one drawing showed nothing."""
    curves = [[10.0**-level] * 20 for level in range(5)] * 4 + [[1.0] * 40]
    drawn = band(curves, 40)
    assert drawn.curves == 21
    middle = [tuple(map(float, place.split(","))) for place in drawn.median.split()]
    assert len(middle) == 20 // stretch(40)  # one answer of 21 went on: fewer than a tenth
    levels = {text: y for y, text in axes(40).levels}
    assert {y for _, y in middle} == {levels["1 %"]}
    outline = {float(place.split(",")[1]) for place in drawn.area.split()}
    assert min(outline) < levels["1 %"] < max(outline)
    assert band([[], []], 40) is None
    spiky = band(
        [[1e-9, 1e-2] * 10] * 3, 48
    )  # two tokens a stretch: the peak of each counts, not what lies between
    assert {float(place.split(",")[1]) for place in spiky.median.split()} == {levels["1 %"]}
    assert band([[0.5]], 1).median


def test_curves_are_a_letter_a_step():
    assert encoded([1.0, 1e-9, 0.0, 1e-3]) == LEVELS[0] + LEVELS[-1] * 2 + LEVELS[32]
    assert [span(seconds) for seconds in (30, 600, 7200, 400_000)] == [
        "30 seconds",
        "10.0 minutes",
        "2.0 hours",
        "4.6 days",
    ]


class Shown(HTMLParser):
    """Reads a page as its reader does: texts by the element and class that they stand in."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.checked = [], [], set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.open.append((tag, attributes.get("class"), attributes.get("id")))
        if "checked" in attributes:
            self.checked.add(attributes.get("id"))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        self.texts.append((tuple(self.open), data))

    def inside(self, tag, *, kind=None, name=None):
        """Return the text within elements of a tag, with a class or an id."""
        fits = lambda place: place[0] == tag and kind in (None, place[1]) and name in (None, place[2])  # noqa: E731
        return "".join(text for places, text in self.texts if any(map(fits, places)))


def compared(second="boosted"):
    good = arm("soft-landing:start=0.5", [answer(row, second) for row in range(40)])
    poor = arm("baseline", [answer(row, "length", "It stops in the", 64) for row in range(40)])
    good.command = "endmark run 'my data.csv' --strategy soft-landing:start=0.5 --model demo -o answers.csv"
    rows = tuple(
        ShownRow(
            row, "Why?", (answer(row, second), answer(row, "length", "It stops in the", 64)), ((0.1,), (0.2,))
        )
        for row in range(2)
    )
    return Report("Two", (good, poor), rows, 40, 4000, "")


def test_the_recommended_row_is_marked_and_its_command_stands_beneath():
    shown = Shown(write_page(compared()))
    assert "soft-landing:start=0.5" in shown.inside("tr", kind="taken")
    assert "recommended" in shown.inside("tr", kind="taken")
    assert "baseline" not in shown.inside("tr", kind="taken")
    assert shown.inside("code", name="command") == compared().arms[0].command


def test_the_page_opens_on_rows_that_ended_differently():
    assert "differ" in Shown(write_page(compared())).checked
    alike = compared("length")
    rows = tuple(ShownRow(row.row, row.prompt, row.answers[1:] * 2, row.traces) for row in alike.rows)
    same = Report(alike.title, alike.arms, rows, 40)
    assert "differ" not in Shown(write_page(same)).checked  # or it would open on nothing


def test_a_colour_has_one_meaning():
    """Green meant complete in one drawing, not truncated in the next, and the advice in a third."""
    page = write_page(compared())
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert re.search(r"\.advice \{[^}]*var\(--accent\)", style)
    assert not re.search(r"\.advice \{[^}]*var\(--(whole|cut)\)", style)
    drawn = page.partition("<body>")[2].partition("<template")[0]
    found = set(re.findall(r'<(?:rect|polyline|polygon)[^>]* ?class="([^"]*)"', drawn))
    assert found == {"whole", "cut"}
    assert page.count("<polyline class=") == 2  # a band an arm, for its one kind of answers


def test_half_a_surrogate_pair_does_not_keep_a_page_from_being_written():
    write_page(report("a\ud800b")).encode("utf-8")
