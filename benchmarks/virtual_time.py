"""How well the order of the rows keeps GPUs full, without one: `python benchmarks/virtual_time.py`.

The engine's own scheduler runs the published workload in virtual time: its steps take what they took on an H100.
Shards are claimed as workers claim them, one after the other, while fewer rows than `--ahead` wait. It prints the
seconds of an engine that has all rows from the start, of one worker and of two.
"""

import argparse
from collections import deque
from statistics import fmean

from workload import Row, mixed_rows

from endmark.jobs.shards import shard_size
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.flags import NATURAL
from endmark.worker.engine.plan import StepPlan, StepResult, Ticket
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary
from endmark.worker.service.app import rows_ahead

_SLOTS = 256
_STEP = 0.0059  # seconds that a step takes to read the weights
_ROW = 0.0000532  # of each row that runs
_TOKEN = 0.000021  # of each token of prompts, whose arithmetic hides the weights
_LAUNCH = 0.018  # the least of a step with prompts: it is no captured graph
_CLAIM = 0.012  # seconds of a claim


class VirtualRunner:
    """Samples the same token always, and adds up what its steps would take."""

    page_size, num_pages, max_rows = 1024, 4 * _SLOTS, _SLOTS
    prefill_tokens, piece_tokens, weight_tokens = 8192, 2048, 256
    refill, context, overlaps = _SLOTS // 16, 1024, False

    def __init__(self) -> None:
        self.now = 0.0  # seconds

    def launch(self, plan: StepPlan) -> Ticket:
        """Let the time of a step pass."""
        prompts = sum(row.end - row.cached for row in plan.prefill)
        seconds = max(_STEP, _TOKEN * prompts) + _ROW * len(plan.decode.slots)
        self.now += max(seconds, _LAUNCH) if prompts else seconds
        return Ticket(len(plan.slots))

    def read(self, ticket: Ticket) -> StepResult:
        """Return one token for each row."""
        count = ticket.rows
        return StepResult([3] * count, [0.0] * count, [1] * count, [NATURAL] * count)


class Worker:
    """An engine in virtual time that claims shards for itself."""

    def __init__(self, shards: deque[list[Request]], ahead: float, claim: float) -> None:
        self.runner = VirtualRunner()
        self._engine = Engine(self.runner, Vocabulary([b"x"] * 4), frozenset())
        self._shards, self._ahead, self._claim = shards, ahead, claim
        self._claimed = 0.0  # when the last claim was done

    @property
    def has_work(self) -> bool:
        """Whether there is anything left for this worker."""
        return self._engine.has_work or bool(self._shards)

    def step(self) -> None:
        """Claim what there is time for, then run one step."""
        while self._shards and self._engine.waiting < self._ahead and self._claimed <= self.runner.now:
            for request in self._shards.popleft():
                self._engine.add(request)
            self._claimed = max(self._claimed, self.runner.now - self._claim) + self._claim
        if self._engine.has_work:
            self._engine.step()
        else:
            self.runner.now = self._claimed


def seconds(rows: list[Row], workers: int, ahead: float, claim: float = _CLAIM) -> float:
    """Return when the last row ends."""
    size = shard_size(len(rows))
    requests = [
        Request(key=key, prompt_token_ids=row.prompt_token_ids, max_new_tokens=row.max_tokens)
        for key, row in enumerate(rows)
    ]
    shards = deque(requests[begin : begin + size] for begin in range(0, len(rows), size))
    crew = [Worker(shards, ahead, claim) for _ in range(workers)]
    while busy := [worker for worker in crew if worker.has_work]:
        min(busy, key=lambda worker: worker.runner.now).step()
    return max(worker.runner.now for worker in crew)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9], help="Workloads to take the mean of.")
    parser.add_argument("--ahead", type=int, default=rows_ahead(_SLOTS, "cuda"), help="Rows that wait.")
    options = parser.parse_args()
    workloads = [mixed_rows(options.rows, seed, 32000) for seed in options.seeds]
    alone = fmean(seconds(rows, 1, float("inf"), 0.0) for rows in workloads)
    one, two = (fmean(seconds(rows, count, options.ahead) for rows in workloads) for count in (1, 2))
    print(f"engine alone {alone:7.2f} s")
    print(f"one worker   {one:7.2f} s, {alone / one:.3f} of the engine alone")
    print(f"two workers  {two:7.2f} s, {one / two:.3f} times one, {alone / two:.3f} times the engine alone")


if __name__ == "__main__":
    main()
