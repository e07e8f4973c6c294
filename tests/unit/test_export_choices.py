"""Labels and their probabilities in the files of results: an object in JSON, a text of it in tables."""

import csv
import io
import json

import pytest

from endmark.db.export import FORMATS
from endmark.db.export.request import Export
from endmark.db.export.stream import COLUMNS, Result
from endmark.db.jobs import Job
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import JobState
from tests.unit.export_batches import batches_of

pytestmark = pytest.mark.unit

PROBS = {"ja": 0.75, "né, no": 0.25}


def exported(name):
    """Return what a format writes of a row that was chosen by scores and one that was drawn."""
    values = dict.fromkeys(COLUMNS) | {"response": "ja", "finish_reason": "eos", "eos_source": "natural"}
    scored = {"choice": "ja", "choice_prob": 0.75, "choice_probs": json.dumps(PROBS, ensure_ascii=False)}
    rows = [Result(0, ["Hi"], tuple((values | scored).values())), Result(1, ["Ho"], tuple(values.values()))]
    job = Job("j", "j", JobState.COMPLETED, 0, ("prompt",), 2, {0: GenerationSpec(model="m")})
    handle = io.StringIO()
    FORMATS[name].write(handle, Export(job, ("prompt",), batches_of(rows)))
    handle.seek(0)
    return handle


def test_jsonl_holds_an_object():
    scored, drawn = map(json.loads, exported("jsonl"))
    assert (scored["choice"], scored["choice_prob"], scored["choice_probs"]) == ("ja", 0.75, PROBS)
    assert (drawn["choice"], drawn["choice_prob"], drawn["choice_probs"]) == (None, None, None)


def test_csv_holds_the_object_as_a_text():
    scored, drawn = csv.DictReader(exported("csv"))
    assert (scored["choice"], scored["choice_prob"]) == ("ja", "0.75")
    assert json.loads(scored["choice_probs"]) == PROBS
    assert drawn["choice_probs"] == ""


def test_openai_output_holds_it_under_endmark():
    scored, drawn = (json.loads(line)["response"]["body"]["endmark"] for line in exported("openai"))
    assert (scored["choice_prob"], scored["choice_probs"]) == (0.75, PROBS)
    assert drawn["choice_probs"] is None
