"""Which rows run in the next step, and where their keys and values stand.

Rows wait for a slot in the order of `worker.engine.waiting`, the largest budgets first.

Pages are taken as rows grow. When none is left, the youngest row goes back to be the next that is admitted,
and is computed again; its tokens are kept. It may be preempted with a step in flight: that step is read before the
next one is planned, so a row that waits knows all its tokens.
"""

from collections.abc import Iterator

from endmark.worker.engine.contract import Runner
from endmark.worker.engine.pages import PagePool
from endmark.worker.engine.plan import DecodePlan, PrefillPlan, PrefillRow
from endmark.worker.engine.row import RowState
from endmark.worker.engine.steering import Call
from endmark.worker.engine.waiting import WaitingRows


class Scheduler:
    """Plans steps; sees no token but through the rows it holds."""

    def __init__(self, runner: Runner) -> None:
        self._waiting = WaitingRows(runner.max_rows)
        self.running: list[RowState] = []  # oldest first
        self.preemptions = 0
        self._pool = PagePool(runner.num_pages, runner.page_size)
        self._slots = list(range(runner.max_rows - 1, -1, -1))
        self._prefill_tokens = runner.prefill_tokens
        self._refill = runner.refill

    @property
    def waiting(self) -> int:
        """Rows without a slot."""
        return len(self._waiting)

    @property
    def pages(self) -> tuple[int, int]:
        """Pages in use, and in all."""
        return self._pool.num_pages - self._pool.free, self._pool.num_pages

    def rows(self) -> Iterator[RowState]:
        """Return all rows, running or waiting."""
        yield from self.running
        yield from self._waiting

    def add(self, row: RowState) -> None:
        """Let a row wait for its slot."""
        self._waiting.add(row)

    def drop(self, row: RowState) -> None:
        """Forget a row that waits."""
        self._waiting.drop(row)
        self._pool.release(row.pages)
        row.pages = []

    def schedule(self) -> tuple[PrefillPlan | DecodePlan, list[RowState]] | None:
        """Return the next step and its rows in the plan's order; None if there is nothing to run."""
        admitted = list(self._admit())
        plan: PrefillPlan | DecodePlan
        if admitted:
            plan = PrefillPlan([item for item, _ in admitted])
            rows = [row for _, row in admitted]
        else:
            rows, new_pages = self._grow()
            if not rows:
                return None
            rows.sort(key=lambda row: -row.input_position)  # or the card ends with one alone
            plan = DecodePlan(
                slots=[row.slot for row in rows],
                lengths=[row.input_position for row in rows],
                steps=[row.launched for row in rows],
                positions=[row.position for row in rows],
                new_pages=new_pages,
                masks=[(row.slot, row.answer.mask.words()) for row in rows if row.answer.mask is not None],
                calls=[row.call for row in rows] if any(row.call for row in rows) else (),
            )
        for row in rows:
            row.launched += 1
            row.call = Call.NONE
        return plan, rows

    def _admit(self) -> Iterator[tuple[PrefillRow, RowState]]:
        """Move waiting rows to slots while pages and the prefill budget allow, in order."""
        budget = self._prefill_tokens
        if self.running and len(self._slots) < min(self._refill, self.waiting):
            return  # a prefill of a row or two costs as much as one of many
        while self._slots and self._waiting:
            row = self._waiting.first
            token_ids = row.token_ids
            shared = row.pages or self._pool.share_prefix(token_ids)
            cached = len(shared) * self._pool.page_size
            fresh = len(token_ids) - cached
            wanted = self._pool.pages_for(len(token_ids)) - len(shared)
            fits = budget == self._prefill_tokens or fresh <= budget
            # One page of room for each running row keeps a newcomer from being preempted at once.
            roomy = self._pool.free >= wanted + len(self.running)
            pages = self._pool.take(wanted) if fits and roomy else None
            if pages is None:
                if not row.pages:
                    self._pool.release(shared)
                if self.running or not self._let_go():
                    return
                continue
            budget -= fresh
            self._waiting.admit()
            row.pages = shared + pages
            row.slot = self._slots.pop()
            self._pool.publish_prefix(row.request.prompt_token_ids, row.pages)
            self.running.append(row)
            yield row.plan(token_ids, cached), row

    def _grow(self) -> tuple[list[RowState], list[tuple[int, int, int]]]:
        """Give every row that has tokens left room for one more; preempt the youngest where there is none."""
        new_pages: list[tuple[int, int, int]] = []
        rows: list[RowState] = []
        for row in list(self.running):
            if row.slot < 0 or row.launched >= row.budget or row.waits_for_token:
                continue  # preempted just now, or its last token is in flight
            if row.input_position // self._pool.page_size < len(row.pages):
                rows.append(row)
                continue
            pages = self._pool.take(1)
            while pages is None:
                victim = self.running[-1]
                self.preempt(victim)
                if victim is row:
                    break
                pages = self._pool.take(1)
            if row.slot < 0 or pages is None:
                continue
            new_pages.append((row.slot, len(row.pages), pages[0]))
            row.pages += pages
            rows.append(row)
        return [row for row in rows if row.slot >= 0], new_pages

    def preempt(self, row: RowState) -> None:
        """Send a running row back to be the next that is admitted."""
        self.retire(row)
        self._waiting.put_back(row)
        self.preemptions += 1

    def take_back(self, row: RowState) -> None:
        """Let a running row, whose last tokens were taken back, be the next that is admitted; its pages stay."""
        whole = max(0, len(row.token_ids) - 1) // self._pool.page_size
        kept, row.pages = row.pages[:whole], row.pages[whole:]
        self.retire(row)
        row.pages = kept
        row.launched = row.answer.generated
        self._waiting.put_back(row)

    def _let_go(self) -> bool:
        """Take the pages from all rows that wait with some, or none is admitted; return whether there were any."""
        holding = [row for row in self._waiting if row.pages]
        for row in holding:
            self._pool.release(row.pages)
            row.pages = []
        return bool(holding)

    def retire(self, row: RowState) -> None:
        """Take back a running row's slot and pages."""
        self.running.remove(row)
        self._pool.release(row.pages)
        self._slots.append(row.slot)
        row.pages, row.slot = [], -1
