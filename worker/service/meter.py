"""What one worker process counts as it works: plain numbers, read whenever they are asked for."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from endmark.jobs.vocabulary import Outcome

STEP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)  # seconds


class Meter:
    """Counts since the process began. Each count is written by one thread alone."""

    def __init__(self) -> None:
        self.rows: Counter[tuple[str, str]] = Counter()  # stored rows by finish reason and EOS source
        self.endings: Counter[str] = Counter()  # the same rows by where their text ends, failed ones apart
        self.parts: Counter[tuple[str, str]] = Counter()  # the same by the part that they ended in, and who closed
        self.reasoning_tokens = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.reaped = 0  # shards taken up whose former worker had died
        self.steps = [0] * (len(STEP_BOUNDS) + 1)  # engine steps by how long they took
        self.step_seconds = 0.0

    def step(self, seconds: float) -> None:
        """Count one step of the engine."""
        self.steps[bisect_left(STEP_BOUNDS, seconds)] += 1
        self.step_seconds += seconds

    def stored(self, outcomes: Sequence[Outcome]) -> None:
        """Count rows whose outcome is in the ledger."""
        for outcome in outcomes:
            last = outcome.attempts[-1]
            self.rows[last.verdict.finish_reason.value, (last.verdict.eos_source or "")] += 1
            if last.ending is not None and last.verdict.finish_reason.has_answer:
                self.endings[last.ending.value] += 1
            if last.ended_in is not None:
                self.parts[last.ended_in.value, (last.thought_closed or "")] += 1
            self.reasoning_tokens += last.reasoning_tokens
            self.prompt_tokens += last.prompt_tokens
            self.completion_tokens += last.completion_tokens
