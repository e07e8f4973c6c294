"""`think`: a thought has a budget of its own, and is closed when that is spent."""

from endmark.jobs.strategies.base import Parameter, Place, ScoreNumbers, Strategy, Watcher
from endmark.jobs.strategies.rewind import Rewind, loops_of


class Think(Strategy):
    """Raises the closing mark at landing spots of the thought, and puts it in where the budget is spent.

    The answer then has `max_new_tokens` of its own, and its strategies count from where it begins. An EOS in the
    thought, and a thought that runs in a loop, are closed in the same way: message, then mark.
    """

    name = "think"
    place = Place.THOUGHT
    summary = "gives the thought a budget of its own, and closes it at a landing spot, or when that is spent"
    why = "for models that think: without it, long thoughts leave nothing of the budget for the answer"
    declared = (
        Parameter("budget", 1024, "tokens of the thought; those of the answer come on top", 1, 2**19),
        Parameter("start", 0.8, "share of it from which the closing mark is raised at landing spots", 0.0, 1.0),
        Parameter("power", 2.0, "shape of the rise: 1 straight, more is later and steeper", 0.01, 100.0),
        Parameter("margin", 20.0, "score by which the mark leads the best other token in the end", 0.0, 1e6),
        Parameter("message", "", "what is put in before the mark, to tell the model that time is up"),
        Parameter("strict", True, "whether an EOS in the thought becomes the closing mark"),
    )

    @property
    def budget(self) -> int:
        """Tokens of the thought."""
        return int(self.number("budget"))

    def thought_numbers(self) -> ScoreNumbers:
        """Return what raises the closing mark while a thought is open."""
        return ScoreNumbers(
            start=self.number("start") * self.budget,
            full=float(self.budget),
            power=self.number("power"),
            margin=self.number("margin"),
            after_sentence=True,
        )

    def thought_watcher(self) -> Watcher:
        """Return what closes a thought that runs in a loop."""
        return loops_of(Rewind())
