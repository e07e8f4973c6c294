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
from endmark.worker.engine.plan import DecodePlan, PrefillPlan, StepResult, Ticket
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary
from endmark.worker.service.app import rows_ahead

_SLOTS = 256
_PREFILL = (0.004, 0.00102)  # seconds of a prefill, and of each of its rows
_DECODE = (0.0059, 0.0000532)  # the same of a decode step
_CLAIM = 0.012  # seconds of a claim


class VirtualRunner:
    """Samples the same token always, and adds up what its steps would take."""

    page_size, num_pages, max_rows = 1024, 4 * _SLOTS, _SLOTS
    prefill_tokens, refill, context, overlaps = 8192, _SLOTS // 16, 1024, False

    def __init__(self) -> None:
        self.now = 0.0  # seconds

    def launch(self, plan: PrefillPlan | DecodePlan) -> Ticket:
        """Let the time of a step pass."""
        fixed, each = _PREFILL if isinstance(plan, PrefillPlan) else _DECODE
        rows = len(plan.rows) if isinstance(plan, PrefillPlan) else len(plan.slots)
        self.now += fixed + each * rows
        return Ticket(rows)

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
