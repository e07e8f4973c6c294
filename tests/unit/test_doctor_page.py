"""The doctor's page, made by the command from what the doctor's process has told as JSON."""

import json
import re

import pytest

from endmark.cli.pages.doctor import kind_of, write_page
from endmark.cli.pages.findings import summary
from endmark.jobs.strict_json import strict_json
from endmark.jobs.vocabulary import ENDS

pytestmark = pytest.mark.unit
HOSTILE = "</style><script>alert(1)</script>"


def row(reason="eos", source="natural", probs=(0.1, 0.9), error=None):
    return {
        "prompt": HOSTILE,
        "response": HOSTILE,
        "finish_reason": reason,
        "eos_source": source,
        "error": error,
        "completion_tokens": len(probs),
        "eos_prob_max": max(probs, default=0.0),
        "eos_probs": list(probs),
    }


def result(*rows, findings=()):
    return {
        "model": HOSTILE,
        "answers": len(rows),
        "ended": 1,
        "truncated": 0,
        "failed": 0,
        "end_tokens": [],
        "greedy": None,
        "sixteen_bits": None,
        "max_new_tokens": 8,
        "sampling": {"temperature": 0.7, "top_k": 0, "top_p": 0.9},
        "findings": list(findings),
        "rows": list(rows),
    }


@pytest.mark.parametrize("end", ENDS, ids=[end.name for end in ENDS])
def test_every_way_to_end_has_its_colour(end):
    """A traced job holds ends that the doctor's own sample never has: a boosted EOS is not a cut answer."""
    kind = kind_of(end)
    assert (kind == "cut") == end.reason.truncated
    assert (kind == "none") == (not end.reason.has_answer)
    page = write_page(result(row(end.reason.value, end.source and end.source.value)))
    assert f'<b class="{kind}">{end.told}</b>'.replace("'", "&#39;") in page


def test_nothing_hostile_leaves_its_place():
    finding = {
        "check": HOSTILE,
        "level": "cause",
        "title": HOSTILE,
        "evidence": f"`{HOSTILE}`",
        "fix": "do `it`",
        "command": HOSTILE,
    }
    page = write_page(result(row(), row("length", None), findings=[finding]))
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert "<code>it</code>" in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src" not in policy


def test_a_curve_ends_where_the_scores_are_no_numbers():
    """They cross between the processes as null, and the page's arithmetic failed on them."""
    told = json.loads(
        strict_json(result(row(probs=(0.5, 0.25, float("nan"), 0.5)), row("error", None, (), "NaN")))
    )
    page = write_page(told)
    lines = re.findall(r'<polyline class="whole" points="([^"]*)"', page)
    assert len(lines[-1].split()) == 2
    assert "<pre>NaN</pre>" in page


def test_the_summary_says_how_tokens_were_drawn():
    assert summary(result(row())) == (
        "of 1 answer 0 ran out of 8 tokens and 1 ended by the model's own EOS (temperature 0.7, top_p 0.9)"
    )
