"""`endmark status JOB --price-per-gpu-hour`: the device time of a job, and what it costs."""

import pytest

from endmark.cli.status_view import Details, as_json, one_job
from endmark.db.sizes import JobSize
from endmark.jobs.progress import JobStatus
from endmark.jobs.vocabulary import JobState

pytestmark = pytest.mark.unit


def job(**about):
    counts = dict.fromkeys(
        "pending running succeeded failed cancelled ended_with_eos truncated complete prompt_tokens"
        " completion_tokens".split(),
        0,
    )
    values = {
        "id": "3f2a91c0",
        "name": "night.csv",
        "state": JobState.COMPLETED,
        "model": "m",
        "adapter": None,
        "strategies": ("whole",),
        "total": 9,
        "finish_reasons": {},
        "tokens_per_second": 0.0,
        "eta_seconds": None,
    }
    return JobStatus(**{**counts, **values, **about})


def details(price):
    return Details(JobSize(9, 1, 1, 0, exact=True), (), price)


def test_device_time_is_told_and_priced():
    lines = one_job(job(device_seconds=5400.0), details(2.5)).splitlines()
    assert "device time     1:30:00, 3.75 at 2.50 for a device and hour" in lines
    assert as_json(job(device_seconds=5400.0), details(2.5))["cost"] == pytest.approx(3.75)


def test_without_a_price_no_cost_is_told():
    assert "device time     1:30:00" in one_job(job(device_seconds=5400.0), details(None)).splitlines()
    told = as_json(job(device_seconds=5400.0), details(None))
    assert told["device_seconds"] == 5400.0
    assert "cost" not in told


def test_a_job_of_before_device_time_was_kept_says_nothing_of_it():
    assert "device time" not in one_job(job(), details(2.5))
