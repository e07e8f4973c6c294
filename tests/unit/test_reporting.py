"""The figures of a report, its advice, and that nothing a model writes gets out of its place in the page."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from endmark.jobs.reporting.advice import recommend
from endmark.jobs.reporting.arms import Answer, Arm
from endmark.jobs.reporting.curves import LEVELS, encoded
from endmark.jobs.reporting.histogram import histogram
from endmark.jobs.reporting.intervals import mean_of, paired_p, wilson
from endmark.jobs.reporting.page import Report, ShownRow, span, write_page
from endmark.jobs.reporting.table import cells, headings
from endmark.jobs.vocabulary import ENDS, End, EosSource, FinishReason

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
            answer(2, "length", "Cut.", 64, looped=True),
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
    values = dict(zip(headings(50), cells(counted, 50), strict=True))
    assert values["complete"][0] == "40%"
    assert values["stop sequence"][0] == values["length"][0] == values["failed"][0] == "20%"
    assert values["50 rows"][0] == "0:09"


def test_an_answer_is_read_from_an_exported_row():
    values = {"response": "Hi.", "finish_reason": "eos", "eos_source": "forced", "completion_tokens": 3}
    values |= {"attempts": 2, "stop_sequence": None, "error": None, "eos_prob_max": 0.5, "complete": True}
    values["ending"] = "sentence"
    forced = End(FinishReason.EOS, EosSource.FORCED)
    assert Answer.of(7, values) == Answer(7, "Hi.", forced, 3, 2, eos_prob_max=0.5, complete=True)
    assert Answer.of(7, {**values, "finish_reason": None}) is None
    assert Answer.of(7, {**values, "finish_reason": "cancelled"}).end == End(FinishReason.CANCELLED)


def test_advice_takes_the_least_interference_of_what_is_equally_good():
    base = arm("baseline", [answer(row, "natural" if row < 60 else "length") for row in range(100)])
    boosted = arm("soft-landing", [answer(row, "natural" if row < 60 else "boosted") for row in range(100)])
    forced = arm("eos-reward", [answer(row, "natural" if row < 50 else "forced") for row in range(99)])
    advice = recommend([base, boosted, forced])
    assert advice.arm is boosted
    assert advice.reasons[0].startswith("100% (96% to 100%) of its answers are complete")
    assert "`baseline`: 60% (50% to 69%) complete, which is fewer than chance explains" in advice.reasons
    assert any(
        "fewer ended by themselves: 51% against 60% (0% boosted, 49% forced)" in why for why in advice.reasons
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
    assert data["rows"][0]["answers"][0]["whole"] is False


def test_the_edge_of_a_histogram_is_where_its_last_bar_ends():
    drawn = histogram(arm("x", [answer(0, tokens=60)]), 60)
    assert "60 to 62 tokens: 1" in drawn
    assert ">72 tokens</text>" in drawn  # 24 bars of 3


def test_curves_are_a_letter_a_step():
    assert encoded([1.0, 1e-9, 0.0, 1e-3]) == LEVELS[0] + LEVELS[-1] * 2 + LEVELS[32]
    assert [span(seconds) for seconds in (30, 600, 7200, 400_000)] == [
        "30 seconds",
        "10.0 minutes",
        "2.0 hours",
        "4.6 days",
    ]
