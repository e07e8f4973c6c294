"""`whole`: rewind, soft-landing and trim together, with one set of defaults."""

from endmark.jobs.endings import ending_of, whole_part
from endmark.jobs.endings.repeats import repeat_near_end
from endmark.jobs.strategies.base import EndHere, Parameter, Place, Strategy, TakeBack, TextSoFar, Watcher
from endmark.jobs.strategies.no_loops import behind_first_copy
from endmark.jobs.strategies.rewind import REWINDS, RewindWatcher, loops_of
from endmark.jobs.strategies.soft_landing import SoftLanding, landing_parameters
from endmark.jobs.vocabulary import Ending

_LEAST = 4  # tokens of an answer that is drawn again since it was empty
_ENOUGH = 0.25  # share of a cut answer that is kept when it is trimmed; with less, it is tried again


class Whole(SoftLanding):
    """Takes loops back, lets the answer land late, and trims what was cut all the same.

    An answer that is empty, or reached its budget without any place to end, is taken back as well and drawn
    again; so is one that says a thing again near an end that is not the model's own, though it is no loop. So
    EOS need only be raised near the end of the budget: what else the model would have ended by itself before
    is left alone.
    """

    name = "whole"
    place = Place.ALL
    trims = True
    summary = "`rewind`, `soft-landing` and `trim` together, with one set of defaults"
    why = "when answers must be complete and none a loop: what most jobs should take"
    declared = (
        *landing_parameters(start=0.85, firm=0.95),
        *REWINDS,
        Parameter("retakes", 4, "how often a cut answer that is whole nowhere is drawn again", 0, 100),
    )

    def thought_watcher(self) -> Watcher:
        """Return what closes a thought that is in a loop."""
        return loops_of(self)

    def watcher(self) -> Watcher:
        """Return the watcher that takes loops back, and answers that end nowhere."""
        return WholeWatcher(self, int(self.number("rewinds")), int(self.number("retakes")))


class WholeWatcher(RewindWatcher):
    """Takes back loops, and once a row has ended, what has no place where it could end.

    Args:
        strategy: whose parameters it follows.
        left: how often it may still take a loop back.
        retakes: how often it may still take back what is whole nowhere.
        again: whether the row was taken back before: an end of the model's own is no longer one that it came to
            by itself.
    """

    def __init__(self, strategy: Strategy, left: int, retakes: int, *, again: bool = False) -> None:
        super().__init__(strategy, left)
        self._retakes, self._again = retakes, again

    def following(self) -> Watcher:
        """Return the watcher that follows the row from where a loop was taken back to."""
        return WholeWatcher(self.strategy, self.left - 1, self._retakes, again=True)

    def see(self, answer: TextSoFar, *, last: bool) -> EndHere | TakeBack | None:
        """Return where the row is to go on from, or its end if that was tried often enough."""
        if last and self._retakes and not answer.text.strip():
            return self._retake(0, least=_LEAST)
        found = super().see(answer, last=last)
        if isinstance(found, TakeBack) or not (found or last) or (answer.ended_naturally and not self._again):
            return found
        complete = found is None and self._is_complete(answer)
        size = len(answer.token_ids) if found is None else found.token_count
        kept = size if complete else whole_part(answer.text, answer.lengths[:size])
        repeat = repeat_near_end(answer.text[: answer.lengths[kept - 1]]) if kept else None
        if repeat is not None:
            found = behind_first_copy(answer, repeat)
            if self.left:
                return self.out_of(found)
            size = found.token_count
            kept = whole_part(answer.text, answer.lengths[:size])
        enough = kept >= _ENOUGH * size and (repeat is not None or not answer.ended_naturally)
        return found if (complete and repeat is None) or enough or not self._retakes else self._retake(kept)

    def _retake(self, kept: int, least: int = 0) -> TakeBack:
        """Return that the row is drawn again behind so many tokens, and has at least so many more.

        It is another answer from there, and may be taken out of loops as often as the first.
        """
        return TakeBack(
            token_count=kept,
            temperature=self.strategy.number("temperature"),
            dry_multiplier=0.0,
            then=WholeWatcher(self.strategy, int(self.strategy.number("rewinds")), self._retakes - 1, again=True),
            least=least,
        )

    @staticmethod
    def _is_complete(answer: TextSoFar) -> bool:
        """Whether the row has ended with EOS, and its answer is complete."""
        if answer.end_token_id is None:
            return False
        ending = ending_of(answer.text)
        return ending.is_whole or (ending is Ending.PHRASE and answer.ended_naturally)
