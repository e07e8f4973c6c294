"""The engine: `add(request)`, then `step()` until nothing is left; each step returns what finished.

A step is: plan (a token of each running row, and prompts of those that begin), launch, read, retire. On a device
that runs on its own the host reads step t while the device runs step t+1, so a row that ends by its token costs
one step whose result is dropped. Where masks of step t+1 depend on the tokens of step t, its draw waits for them;
step t+2 is planned meanwhile and launched right behind the draw, so that the device does not wait for its plan.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from endmark.worker.engine.checking import Admission
from endmark.worker.engine.contract import Capacity, LateDraws, Runner
from endmark.worker.engine.plan import StepPlan, Ticket
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.row import RowState
from endmark.worker.engine.scheduler import Scheduler
from endmark.worker.engine.steering import Call
from endmark.worker.engine.text import Vocabulary


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that has been launched."""

    ticket: Ticket
    rows: Sequence[RowState]  # that it samples for
    late: Sequence[tuple[RowState, int]]  # those whose masks it lacks, and their slots


class Engine:
    """Continuous batching over one runner; an `InferenceEngine` of `worker.engine.contract`."""

    asks_before = True

    def __init__(
        self,
        runner: Runner,
        vocabulary: Vocabulary,
        eos_ids: Iterable[int],
        *,
        embeddings: int | None = None,
        token_name: Callable[[int], str | None] = str,
        context_reason: str | None = None,
    ) -> None:
        """Take over a runner.

        Args:
            runner: the model on its device.
            vocabulary: of its tokeniser.
            eos_ids: all end tokens.
            embeddings: of the model; tokens from this one on cannot be computed. None: as many as ids.
            token_name: what the tokeniser calls a token, for messages.
            context_reason: why the runner's context is shorter than the model's.
        """
        self.runner = runner
        self.vocabulary = vocabulary
        self.eos_ids = frozenset(eos_ids)
        self.steps = 0
        self.row_steps = 0  # rows summed over the steps
        self._scheduler = Scheduler(runner)
        self._masks = False  # whether a row with a mask has come
        self._in_flight: _Step | None = None
        self._planned: Sequence[RowState] = ()  # rows of the step that is planned while masks are made
        self._ahead: _Step | None = None  # launched behind that in flight
        kv_tokens = runner.num_pages * runner.page_size
        self.capacity = Capacity(runner.max_rows, min(runner.context, kv_tokens), kv_tokens)
        self._admission = Admission(vocabulary, self.capacity.context, embeddings, token_name, context_reason)

    @property
    def has_work(self) -> bool:
        """Whether a further step can finish anything."""
        return bool(self._scheduler.running or self._scheduler.waiting or self._in_flight)

    @property
    def waiting(self) -> int:
        """Rows that have no slot yet."""
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        """Rows that hold a slot."""
        return len(self._scheduler.running)

    @property
    def pages(self) -> tuple[int, int]:
        """KV pages in use, and in all."""
        return self._scheduler.pages

    @property
    def preemptions(self) -> int:
        """Rows sent back because no page was left."""
        return self._scheduler.preemptions

    def add(self, request: Request) -> None:
        """Queue an attempt. Its budget ends where the model's context does.

        Raises:
            PromptTooLong: the prompt leaves no room for a single new token.
            TokenUnknown: it holds a token that the model has no embedding for.
        """
        self._scheduler.add(self._admission.row(request))
        self._masks |= request.mask is not None

    def cancel(self, keys: Collection[int]) -> None:
        """Drop the attempts with these keys; they are never returned."""
        for row in [row for row in self._scheduler.rows() if row.request.key in keys]:
            self._drop(row)

    def insert(self, keys: Collection[int]) -> None:
        """Let the insertions of these attempts begin with the next token that is asked for."""
        for row in self._scheduler.rows():
            if row.request.key in keys:
                row.insert()

    def step(self) -> list[Finished]:
        """Run one step and return the attempts that it ended."""
        blocked = self._drop_blocked()
        launched, self._ahead = self._ahead or self._launch(self._scheduler.schedule()), None
        previous, self._in_flight = self._in_flight, launched
        if previous is not None:
            ended = blocked + self._settle(previous)
            return ended + self._draw(launched) if launched is not None and launched.late else ended
        if launched is not None and not self.runner.overlaps:
            self._in_flight = None
            return blocked + self._settle(launched)
        return blocked

    def _drop_blocked(self) -> list[Finished]:
        """End the rows that no token may follow, and let those go back whose masks ask for it."""
        if not self._masks:
            return []
        asked = [row for row in self._scheduler.rows() if not row.waits_for_token]
        return [finished for row in asked if (finished := self._heed_mask(row)) is not None]

    def _heed_mask(self, row: RowState) -> Finished | None:
        """Take a row back if its mask asks for it; end and return it if no token may follow."""
        if row.answer.retreat():
            self._take_back(row)
            return None
        finished = row.answer.blocked()
        if finished is not None:
            self._drop(row)
        return finished

    def _launch(self, scheduled: tuple[StepPlan, list[RowState]] | None) -> _Step | None:
        """Start a step if there is one."""
        if scheduled is None:
            return None
        plan, rows = scheduled
        late = frozenset(plan.decode.late)
        self.steps += 1
        self.row_steps += len(rows)
        # Their slots as of the plan: a row may have ended since.
        found = [(row, slot) for row, slot in zip(rows, plan.decode.slots, strict=False) if slot in late]
        return _Step(self.runner.launch(plan), rows, found)

    def _draw(self, step: _Step) -> list[Finished]:
        """Draw the step in flight, now that the tokens are known on which masks of some rows depend."""
        assert isinstance(self.runner, LateDraws)
        ended = self._drop_blocked()
        planned = self._scheduler.schedule()
        self._planned = planned[1] if planned is not None else ()
        masks = []
        for row, slot in step.late:
            mask = row.answer.mask
            if row.done or row.stale or mask is None:
                continue  # it has ended, or was taken back
            words = mask.words()
            if mask.refusal or mask.surplus:
                finished = self._heed_mask(row)
                ended += [finished] if finished is not None else []
            else:
                masks.append((slot, words))
        self._planned = ()
        self.runner.draw(step.ticket, masks)
        self._ahead = self._launch(planned)
        return ended

    def _settle(self, step: _Step) -> list[Finished]:
        """Hand each row its token; retire those that end."""
        result = self.runner.read(step.ticket)
        eos_ids = self.eos_ids
        ended: list[Finished] = []
        for index, (row, token_id, prob, rank, flags) in enumerate(
            zip(step.rows, result.token_ids, result.eos_probs, result.eos_ranks, result.flags, strict=True)
        ):
            if row.done:
                continue  # ended by the token before this one, or cancelled
            if row.stale:
                row.stale -= 1
                continue
            before = len(row.answer.token_ids)
            finished = row.answer.see(token_id, prob, rank, flags, is_eos=token_id in eos_ids)
            if row.scores is not None:
                row.note(result.told[index], before)
            if finished is not None:
                ended.append(row.told(finished, result.asked.get(index), result.asked_before.get(index, ())))
                self._drop(row, keep=not finished.verdict.end.failed)
            elif row.answer.taken_back:
                self._take_back(row)
            elif row.answer.closes_thought:
                row.answer.closes_thought = False
                row.insert()
        for row in step.rows if self._masks else ():
            if row.answer.mask is not None:
                row.answer.mask.start()
        return ended

    def _take_back(self, row: RowState) -> None:
        """Let a row go on from where its answer was taken back to; what is in flight for it is of no use."""
        row.answer.taken_back = False
        row.call = Call.NONE
        row.stale = int(self._in_flight is not None and row in self._in_flight.rows) + (row in self._planned)
        if row.slot >= 0:
            self._scheduler.take_back(row)
        else:  # it was preempted by the step that is in flight
            row.launched = row.answer.generated

    def _drop(self, row: RowState, *, keep: bool = False) -> None:
        """Forget a row, running or waiting; `keep`: but not what has been computed for it."""
        row.done = True
        if row.slot >= 0:
            self._scheduler.retire(row, keep=keep)
        else:
            self._scheduler.drop(row)
