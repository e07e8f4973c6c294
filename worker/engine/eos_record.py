"""What an attempt's steps say of EOS: how probable it was at best, how often it was hidden, and the curve."""

from endmark.jobs.vocabulary import EosTrace
from endmark.worker.engine.flags import HIDDEN


class EosRecord:
    """Takes each step's EOS probability.

    Args:
        curve: whether every step's is kept.
    """

    def __init__(self, *, curve: bool) -> None:
        self._prob_max, self._step_max, self._rank_max = -1.0, 0, 0
        self._hidden_steps = 0
        self._probs: list[float] | None = [] if curve else None

    def see(self, step: int, prob: float, rank: int, flags: int) -> None:
        """Take the attempt's step: the mass of EOS, how many tokens were above it, and the step's flags."""
        if prob > self._prob_max:
            self._prob_max, self._step_max, self._rank_max = prob, step, rank
        if flags & HIDDEN:
            self._hidden_steps += 1
        if self._probs is not None:
            self._probs.append(prob)

    def forget(self, steps: int) -> None:
        """Drop the curve behind the first steps, whose tokens were taken back."""
        if self._probs is not None:
            del self._probs[steps:]

    def trace(self) -> EosTrace:
        """Return what was seen."""
        seen = self._prob_max >= 0.0
        return EosTrace(
            prob_max=self._prob_max if seen else None,
            step_max=self._step_max if seen else None,
            rank_max=self._rank_max if seen else None,
            hidden_steps=self._hidden_steps,
            probs=None if self._probs is None else tuple(self._probs),
        )
