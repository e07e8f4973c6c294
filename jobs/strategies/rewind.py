"""`rewind`: takes a row out of a loop, and lets it go on."""

from endmark.jobs.endings.loops import loop_near_end
from endmark.jobs.strategies.base import EndHere, Parameter, Place, Strategy, TakeBack, TextSoFar, Watcher
from endmark.jobs.strategies.no_loops import LoopWatcher, near_loop

REWINDS = (
    Parameter("rewinds", 4, "how often a row is taken back; a loop after that ends it", 0, 100),
    Parameter("temperature", 0.7, "temperature from the first rewind on, where the row's own is lower", 0.0, 2.0),
    Parameter("dry", 0.8, "penalty a repeated token, from the first rewind on (`dry_multiplier`)", 0.0, 100.0),
    Parameter("times", 6, "how often a stretch must stand in a row to be a loop while the row goes on", 2, 1000),
    Parameter("tokens", 160, "how many tokens the copies must span together", 16, 2**20),
)


class Rewind(Strategy):
    """Takes a loop back to where its second copy began; what would repeat is made unlikely from there on.

    The penalty is DRY's: it grows with the length of the run that a token would go on with. Tokens that are kept
    are not computed again, and the row goes on beside the others. An end of the model's own inside a loop is taken
    back as well; any other stays.
    """

    name = "rewind"
    place = Place.TOKEN
    summary = "takes a loop back to its first copy, and goes on with what would repeat made unlikely"
    why = "for models that fall into loops: more of their answers find an end of their own than under `no-loops`"
    declared = REWINDS

    def watcher(self) -> Watcher:
        """Return the watcher of one row."""
        return RewindWatcher(self, int(self.number("rewinds")))

    def thought_watcher(self) -> Watcher:
        """Return what closes a thought that is in a loop."""
        return loops_of(self)


def loops_of(strategy: Strategy) -> LoopWatcher:
    """Return what finds loops by the parameters of a strategy that goes on behind them."""
    return LoopWatcher(int(strategy.number("times")), int(strategy.number("tokens")), near=True)


class RewindWatcher:
    """Looks for loops as `no-loops` does, and takes the row back as long as it may.

    Args:
        strategy: whose parameters it follows.
    """

    def __init__(self, strategy: Strategy, left: int) -> None:
        self.strategy = strategy
        self.left = left
        self._loops = loops_of(strategy)

    def following(self) -> Watcher:
        """Return the watcher that follows the row from where it was taken back to."""
        return RewindWatcher(self.strategy, self.left - 1)

    def see(self, answer: TextSoFar, *, last: bool) -> EndHere | TakeBack | None:
        """Return where the row is to go on from if it is in a loop, or its end if that was tried often enough."""
        found = self._loops.see(answer, last=last)
        if found is None and last and (self.left or answer.end_token_id is None):
            found = near_loop(answer, loop_near_end)
        return found if found is None or not self.left else self.out_of(found)

    def out_of(self, found: EndHere) -> TakeBack:
        """Return that the row goes on behind the first copy of what was found to repeat itself."""
        return TakeBack(
            token_count=found.token_count,
            temperature=self.strategy.number("temperature"),
            dry_multiplier=self.strategy.number("dry"),
            then=self.following(),
        )
