"""Strategies of other packages: found by name, and harmless where they are broken."""

from importlib.metadata import EntryPoint

import pytest

from endmark.jobs.errors import SpecError
from endmark.jobs.strategies import registry
from endmark.jobs.strategies.base import Place, Strategy
from endmark.jobs.strategies.baseline import Baseline
from endmark.jobs.strategies.registry import Registry

pytestmark = pytest.mark.unit


class Other(Strategy):
    """One that another package brings."""

    name = "other"
    place = Place.NOWHERE
    summary = "does nothing"
    why = "never"


@pytest.fixture
def found(monkeypatch):
    """Return a registry beside which these entry points are installed."""

    def make(**points):
        listed = [EntryPoint(name.replace("_", "-"), value, registry.GROUP) for name, value in points.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: listed if group == registry.GROUP else [])
        return Registry((Baseline,))

    return make


def test_a_strategy_of_another_package_stands_beside_our_own(found):
    names = found(other=f"{__name__}:Other")
    assert list(names) == ["baseline", "other"]
    assert names["other"] is Other
    assert names.broken == {}


def test_our_own_are_found_without_looking_for_others(monkeypatch):
    """Looking takes 20 ms, which every command would pay."""
    monkeypatch.setattr(registry, "entry_points", None)
    assert Registry((Baseline,))["baseline"] is Baseline


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("other", "no.such.module:X", "cannot be imported: ModuleNotFoundError"),
        ("other", f"{__name__}:nothing", "cannot be imported: AttributeError"),
        ("other", f"{__name__}:pytest", "has no strategy of this name"),
        ("another", f"{__name__}:Other", "has no strategy of this name"),
        ("baseline", f"{__name__}:Other", "another strategy than Endmark's own"),
    ],
)
def test_a_broken_one_is_told_and_breaks_no_other(found, name, value, said):
    names = found(**{name: value})
    assert names["baseline"] is Baseline
    assert list(names) == ["baseline"]
    assert said in names.broken[name]
    if name != "baseline":
        with pytest.raises(SpecError, match="cannot be used"):
            names[name]
    with pytest.raises(KeyError):
        names["unknown"]
