"""Which rows run in the next step, and where their keys and values stand.

Rows wait for a slot in the order of `worker.engine.waiting`, the largest budgets first.

A step takes one token of each row that runs, and beside them prompts of rows that begin, up to a number of tokens:
a prompt that does not fit is computed in pieces, so that no row waits for another's prompt.

Pages are taken as rows grow. When none is left, the youngest row goes back to be the next that is admitted,
and is computed again; its tokens are kept. It may be preempted with a step in flight: that step is read before the
next one is planned, so a row that waits knows all its tokens.
"""

from collections.abc import Iterator

from endmark.worker.engine.contract import Runner
from endmark.worker.engine.long_prompts import LongPrompts
from endmark.worker.engine.pages import PagePool
from endmark.worker.engine.plan import Copied, DecodePlan, PrefillRow, StepPlan
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
        self._sources: list[int] = []  # pages that this step's rows copy from: nobody else may fill them meanwhile
        self._slots = list(range(runner.max_rows - 1, -1, -1))
        self._prefill_tokens = runner.prefill_tokens
        self._refill = runner.refill
        self._refilling = False  # whether rows wait that the step before had slots for, and no tokens
        self._piece_tokens = runner.piece_tokens
        self._least = runner.page_size  # tokens that a prompt is cut for: products like full steps
        self._long = LongPrompts(runner)

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

    def schedule(self) -> tuple[StepPlan, list[RowState]] | None:
        """Return the next step and the rows that it samples for, in order; None if there is nothing to run."""
        preempted = self.preemptions
        rows, new_pages = self._grow()
        # A row that was preempted just now may have a token in flight: none is admitted before that has been read.
        prompts = self._prompts(len(rows), admits=preempted == self.preemptions)
        if not rows and not prompts:
            return None
        rows.sort(key=lambda row: -row.input_position)  # or the card ends with one alone
        masked = [row for row in rows if row.answer.mask is not None]
        decode = DecodePlan(
            slots=[row.slot for row in rows],
            lengths=[row.input_position for row in rows],
            steps=[row.launched for row in rows],
            positions=[row.position for row in rows],
            new_pages=new_pages,
            masks=[
                (row.slot, row.answer.mask.words())
                for row in masked
                if row.answer.mask is not None and not row.waits_for_token
            ],
            late=[row.slot for row in masked if row.waits_for_token],
            calls=[row.call for row in rows] if any(row.call for row in rows) else (),
        )
        plan = StepPlan(decode, [item for item, _ in prompts])
        rows += [row for _, row in prompts if not row.prefilling]
        for row in rows:
            row.launched += 1
            row.call = Call.NONE
        return plan, rows

    def _prompts(self, decoding: int, *, admits: bool) -> list[tuple[PrefillRow, RowState]]:
        """Share out what running rows leave of a step: to prompts that have begun, then to rows that wait.

        Args:
            decoding: running rows that have a token in the step.
            admits: whether rows may get a slot.
        """
        budget = max(self._step_tokens(decoding) - decoding, self._pool.page_size)
        begun = [row for row in self.running if row.prefilling]
        long = [row for row in begun if self._is_long(row)]
        taken: list[tuple[PrefillRow, RowState]] = []
        for row in begun:
            if row not in long and budget >= min(row.front - row.computed, self._least):
                self._share_more(row)
                budget -= self._take(row, budget, taken)
        # A step with prompts has a share of its own, however few they are: for a row or two none is begun.
        enough = not self.running or len(self._slots) >= min(self._refill, self.waiting)
        refills = admits and (enough or self._refilling or bool(taken))
        while refills and (admitted := self._admit(budget)) is not None:
            if self._is_long(admitted):
                long.append(admitted)
            else:
                budget -= self._take(admitted, budget, taken)
        self._refilling = refills and budget < self._least
        if long:
            row, alone = long[0], not decoding and not taken
            left = row.front - row.computed
            used = self._step_tokens(decoding) - budget
            if most := budget if alone else min(budget, self._long.due(left, row.computed, decoding, used)):
                self._share_more(row)
                self._take(row, most, taken)
        self._pool.release(self._sources)
        self._sources = []
        return taken

    def _step_tokens(self, decoding: int) -> int:
        """Return the most tokens of a step in which so many rows run.

        Prompts are spread over the steps of those rows: each reads the weights in any case, and few tokens more
        cost it little. At least half a piece is for prompts, and whole pieces fill the tiles of a card's products.
        """
        if not decoding:
            return self._prefill_tokens
        pieces = -(-(decoding + self._piece_tokens // 2) // self._piece_tokens)
        return min(pieces * self._piece_tokens, self._prefill_tokens)

    def _is_long(self, row: RowState) -> bool:
        """Whether others should not wait for what is left of a row's prompt."""
        left = row.front - row.computed
        if left <= self._long.least:
            return False
        others = [other.length for other in self.running if other is not row]
        return self._long.is_long(left, len(others) + self.waiting, sum(others) + self._waiting.tokens)

    def _share_more(self, row: RowState) -> None:
        """Let a row take over what others that begin alike have computed since it was given its slot."""
        shared = self._pool.share_prefix(row.sharable)
        own, row.pages[: len(shared)] = row.pages[: len(shared)], shared
        self._pool.release(own)
        row.computed = max(row.computed, len(shared) * self._pool.page_size)

    def _take(self, row: RowState, most: int, taken: list[tuple[PrefillRow, RowState]]) -> int:
        """Let a step compute up to so many of a row's tokens, whole pages but for the last; return how many."""
        size = row.front - row.computed
        if size > most:  # what is asked about is in the last piece
            size = min(most, size - len(row.request.asked_before) - 1)
            size = size // self._pool.page_size * self._pool.page_size
        if size > 0:
            begin, row.computed = row.computed, row.computed + size
            row.spent = (row.spent or 0) + size
            if row.copied is None:  # else its last page can be copied from once this step has run, not in it
                self._pool.publish_prefix(row.request.prompt_token_ids[: row.computed], row.pages)
            taken.append((row.plan(row.token_ids, begin), row))
            row.copied = None
        return size

    def _admit(self, budget: int) -> RowState | None:
        """Move the first row that waits to a slot, if there are one, pages, and enough of the step's tokens."""
        while self._slots and self._waiting:
            row = self._waiting.first
            token_ids = row.token_ids
            sharable = row.sharable
            shared = row.pages or self._pool.share_prefix(sharable)
            wanted = self._pool.pages_for(len(token_ids)) - len(shared)
            source, copied = self._copied(row, sharable, shared, wanted)
            cached = len(shared) * self._pool.page_size + copied
            fits = budget >= min(len(token_ids) - cached, self._least)
            # One page of room for each running row keeps a newcomer from being preempted at once.
            roomy = self._pool.free >= wanted + len(self.running)
            pages = self._pool.take(wanted) if fits and roomy else None
            if pages is None:
                if not row.pages:
                    self._pool.release(shared)
                self._pool.release(source)
                if self.running or not self._let_go():
                    return None
                continue
            self._waiting.admit()
            if source:
                row.copied = Copied(source[0], pages[0], copied)
                self._sources += source
            row.pages = shared + pages
            row.slot = self._slots.pop()
            row.front, row.computed = len(token_ids), cached
            self.running.append(row)
            return row
        return None

    def _copied(self, row: RowState, sharable: list[int], shared: list[int], wanted: int) -> tuple[list[int], int]:
        """Find a page whose front is a waiting row's too, where copying it leaves no more than that to compute.

        So a row that copies is computed in the step that admits it, and one that begins like others with a few
        tokens alone, as most prompts do, is computed as it would be without them.

        Args:
            row: that waits.
            sharable: its tokens that may stand in others' pages.
            shared: its pages that others have computed, or that it has kept.
            wanted: pages that it needs besides.

        Returns:
            The page to copy from, held until it is given back, if there is one; and how many tokens.
        """
        left = len(sharable) - len(shared) * self._pool.page_size
        if row.pages or left > 2 * self._pool.page_size:
            return [], 0
        page, tokens = self._pool.hold_alike(sharable, shared)
        if not tokens:
            return [], 0
        rest = left + len(row.request.asked_before) - tokens
        if rest > tokens or self._pool.free < wanted + len(self.running):  # holding it may be one page too many
            self._pool.release([page])
            return [], 0
        return [page], tokens

    def _grow(self) -> tuple[list[RowState], list[tuple[int, int, int]]]:
        """Give every row that has tokens left room for one more; preempt the youngest where there is none."""
        new_pages: list[tuple[int, int, int]] = []
        rows: list[RowState] = []
        for row in list(self.running):
            if row.slot < 0 or row.prefilling or row.launched >= row.budget:
                continue  # preempted just now, or it does not run yet, or its last token is in flight
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
        known = len(row.token_ids) - 1
        whole = max(0, min(known, row.computed) if row.prefilling else known) // self._pool.page_size
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

    def retire(self, row: RowState, *, keep: bool = False) -> None:
        """Take back a running row's slot and pages.

        Args:
            row: that runs.
            keep: whether its pages may be found again, until they are taken for something else: by an attempt that
                goes on from its answer, or by the next turn of a chat. Not those of a preempted row: with little
                to compute again it would be admitted at once, and preempted again.
        """
        if keep:
            tokens = row.token_ids[:-1]  # the last one may not have been computed
            self._pool.publish_prefix(tokens[: row.computed] if row.prefilling else tokens, row.pages)
        self.running.remove(row)
        self._pool.release(row.pages)
        self._slots.append(row.slot)
        row.pages, row.slot = [], -1
        row.front = row.computed = 0
