"""`whole`: rewind, soft-landing and trim together, with one set of defaults."""

from endmark.jobs.strategies.base import Parameter, Place, Watcher
from endmark.jobs.strategies.rewind import REWINDS, RewindWatcher
from endmark.jobs.strategies.soft_landing import SoftLanding


class Whole(SoftLanding):
    """Takes loops back, lets the answer land, and trims what was cut all the same."""

    name = "whole"
    place = Place.ALL
    trims = True
    summary = "`rewind`, `soft-landing` and `trim` together, with one set of defaults"
    why = "when answers must be complete and none a loop: what most jobs should take"
    declared = (
        *SoftLanding.declared,
        *REWINDS,
        Parameter("times", 3, "how often a stretch must stand in a row to be a loop", 2, 1000),
        Parameter("tokens", 48, "how many tokens the copies must span together", 16, 2**20),
    )

    def watcher(self) -> Watcher:
        """Return the watcher that takes loops back."""
        return RewindWatcher(self, int(self.number("rewinds")))
