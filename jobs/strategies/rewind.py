"""`rewind`: takes a row out of a loop, and lets it go on."""

from endmark.jobs.strategies.base import EndHere, Parameter, Place, Strategy, TakeBack, TextSoFar, Watcher
from endmark.jobs.strategies.no_loops import LoopWatcher

REWINDS = (
    Parameter("rewinds", 4, "how often a row is taken back; a loop after that ends it", 0, 100),
    Parameter("temperature", 0.7, "temperature from the first rewind on, where the row's own is lower", 0.0, 2.0),
    Parameter("dry", 0.8, "penalty a repeated token, from the first rewind on (`dry_multiplier`)", 0.0, 100.0),
    Parameter("times", 3, "how often a stretch must stand in a row to be a loop", 2, 1000),
    Parameter("tokens", 48, "how many tokens the copies must span together", 16, 2**20),
)


class Rewind(Strategy):
    """Takes a loop back to where its second copy began; what would repeat is made unlikely from there on.

    The penalty is DRY's: it grows with the length of the run that a token would go on with. Tokens that are kept
    are not computed again, and the row goes on beside the others. What the model ends by itself stays.
    """

    name = "rewind"
    place = Place.TOKEN
    summary = "takes a loop back to its first copy, and goes on with what would repeat made unlikely"
    why = "for models that fall into loops: more of their answers find an end of their own than under `no-loops`"
    declared = REWINDS

    def watcher(self) -> Watcher:
        """Return the watcher of one row."""
        return RewindWatcher(self, int(self.number("rewinds")))


class RewindWatcher:
    """Looks for loops as `no-loops` does, and takes the row back as long as it may."""

    def __init__(self, strategy: Strategy, left: int) -> None:
        self._strategy = strategy
        self._left = left
        self._loops = LoopWatcher(int(strategy.number("times")), int(strategy.number("tokens")), near=True)

    def see(self, answer: TextSoFar, *, last: bool) -> EndHere | TakeBack | None:
        """Return where the row is to go on from if it is in a loop, or its end if that was tried often enough."""
        found = self._loops.see(answer, last=last)
        if found is None and last and (self._left or answer.end_token_id is None):
            found = self._loops.near(answer)
        if found is None or not self._left:
            return found
        return TakeBack(
            token_count=found.token_count,
            temperature=self._strategy.number("temperature"),
            dry_multiplier=self._strategy.number("dry"),
            then=RewindWatcher(self._strategy, self._left - 1),
        )
