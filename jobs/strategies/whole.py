"""`whole`: rewind, soft-landing and trim together, with one set of defaults."""

from endmark.jobs.strategies.base import Place, Watcher
from endmark.jobs.strategies.rewind import REWINDS, RewindWatcher
from endmark.jobs.strategies.soft_landing import SoftLanding


class Whole(SoftLanding):
    """Takes loops back, lets the answer land, and trims what was cut all the same."""

    name = "whole"
    place = Place.ALL
    trims = True
    summary = "`rewind`, `soft-landing` and `trim` together, with one set of defaults"
    why = "when answers must be complete and none a loop: what most jobs should take"
    declared = (*SoftLanding.declared, *REWINDS)

    def watcher(self) -> Watcher:
        """Return the watcher that takes loops back."""
        return RewindWatcher(self, int(self.number("rewinds")))
