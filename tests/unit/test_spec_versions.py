"""Stored specs of other versions of the program: read, or refused by name, never half understood."""

import json

import pytest

from endmark.jobs.errors import SpecError
from endmark.jobs.sampling import Sampling
from endmark.jobs.spec import SPEC_VERSION, GenerationSpec
from endmark.jobs.strategies import build_strategies

pytestmark = pytest.mark.unit
SPEC = GenerationSpec(
    model="m", strategies=build_strategies(["soft-landing"]), sampling=Sampling(temperature=0.5, seed=3)
)


def changed(**changes):
    values = json.loads(SPEC.to_json())
    return json.dumps({**values, **changes})


def without(name):
    values = json.loads(SPEC.to_json())
    del values[name]
    return json.dumps(values)


def test_a_spec_of_this_version_is_read_whole():
    assert GenerationSpec.from_json(SPEC.to_json()) == SPEC


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (changed(version=SPEC_VERSION + 1), f"it is of version {SPEC_VERSION + 1}, this program reads version"),
        (changed(version=None), "it is of version None"),
        (without("version"), "it is of version None"),
        (changed(news=1, olds=2), "this program does not know `news`, `olds`"),
        (changed(sampling={"temperature": 0.5, "warmth": 1}), "this program does not know `warmth`"),
        (changed(sampling=None), "it does not say how to sample"),
        (changed(sampling={"temperature": -5}), "temperature is -5"),
        (changed(strategies="land-on-mars"), "land-on-mars"),
        (changed(strategies=7), "Error"),
        (without("strategies"), "KeyError"),
        (changed(max_new_tokens=0), "max_new_tokens is 0"),
        (changed(max_new_tokens="many"), "TypeError"),
        ("[]", "it is no JSON object"),
        ("{", "it is no JSON"),
    ],
)
def test_a_spec_of_another_version_is_refused_with_the_reason(stored, said):
    """A key that this program did not know was a TypeError, and the job was claimed and released for ever."""
    with pytest.raises(SpecError) as caught:
        GenerationSpec.from_json(stored)
    assert str(caught.value).startswith("the job's spec was written by another version of Endmark: ")
    assert said in str(caught.value)
    assert caught.value.hint == "upgrade Endmark on this host"
