"""The engine over vLLM, which computes the rows; our processor in it draws them, and here their answers end."""

from collections.abc import Callable, Collection, Iterable

from endmark.jobs.errors import ModelError
from endmark.worker.engine.checking import Admission
from endmark.worker.engine.contract import Capacity
from endmark.worker.engine.masks import FreeMask
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.row import RowState
from endmark.worker.engine.text import Vocabulary
from endmark.worker.engine.waiting import WaitingRows
from endmark.worker.vllm.block import MOST_ASKED, Block
from endmark.worker.vllm.core import VllmCore
from endmark.worker.vllm.hooks import ENGINES
from endmark.worker.vllm.running import Running


class VllmEngine:
    """An `InferenceEngine` of `worker.engine.contract`.

    vLLM is given no more rows than it computes at once, so that the order of waiting rows is ours. What it has
    drawn is read from the block; its own outputs only tell that a row was ended.

    Args:
        core: that computes the rows.
        block: shared with its processors.
        vocabulary: of the model's tokeniser.
        eos_ids: all end tokens.
        embeddings: of the model; tokens from this one on cannot be computed.
        token_name: what the tokeniser calls a token, for messages.
    """

    def __init__(
        self,
        core: VllmCore,
        block: Block,
        vocabulary: Vocabulary,
        eos_ids: Iterable[int],
        *,
        embeddings: int,
        token_name: Callable[[int], str | None] = str,
    ) -> None:
        self.vocabulary = vocabulary
        self.eos_ids = frozenset(eos_ids)
        self.asks_before = False
        self.row_steps = 0
        self.capacity = Capacity(core.rows, core.context, core.pages[1] * core.page_size, core.adapters.most)
        self.core, self._block = core, block
        self._admission = Admission(vocabulary, core.context, embeddings, token_name)
        self._everything = FreeMask(embeddings).words()
        self._waiting = WaitingRows(core.rows)
        self._running = Running(core, block)
        self._ended: list[Finished] = []
        self._leaving: list[RowState] = []  # ended in this step
        self._back: list[RowState] = []  # taken back in this step
        self._exchange = core.exchange(block)
        if not core.elsewhere:
            ENGINES[str(block.path)] = self

    @property
    def has_work(self) -> bool:
        """Whether a further step can finish anything."""
        return bool(self._running or self._waiting or self._ended)

    @property
    def waiting(self) -> int:
        """Rows that vLLM has not been given."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Rows that it has."""
        return len(self._running)

    @property
    def preemptions(self) -> int:
        """Rows that it has sent back and taken up again."""
        return int(self._block.resumed[0])

    @property
    def pages(self) -> tuple[int, int]:
        """Its KV pages in use, and in all."""
        return self.core.pages

    def add(self, request: Request) -> None:
        """Queue an attempt. Its budget ends where the context does.

        Raises:
            PromptTooLong: the prompt leaves no room for a single new token.
            TokenUnknown: it holds a token that the model has no embedding for.
            SpecError: its adapter was trained on another model.
            ModelError: its adapter cannot run, or it asks for the probabilities of more tokens than can be told.
        """
        if len(request.asked) > MOST_ASKED:
            raise ModelError(
                f"the row asks for the probabilities of {len(request.asked):,} tokens at one place, and vLLM's "
                f"engine tells {MOST_ASKED:,}",
                hint="give fewer labels, or labels that begin alike",
            )
        self.core.adapters.check(request.adapter)
        self._waiting.add(self._admission.row(request))

    def cancel(self, keys: Collection[int]) -> None:
        """Drop the attempts with these keys; they are never returned."""
        for row in [row for row in self._waiting if row.request.key in keys]:
            row.done = True
            self._waiting.drop(row)
        running = [row for row in self._running if row.request.key in keys]
        for row in running:
            row.done = True
        self._running.end(running)

    def insert(self, keys: Collection[int]) -> None:
        """Let the insertions of these attempts begin with the next token that is asked for."""
        for row in self._waiting:
            if row.request.key in keys:
                row.insert()
        for row in self._running:
            if row.request.key in keys:
                self._running.call(row)

    def step(self) -> list[Finished]:
        """Run one step and return the attempts that it ended."""
        while self._waiting and self._running.has_room:
            row = self._waiting.first
            self._waiting.admit()
            self._running.begin(row)
        if self._running:
            if self.core.elsewhere:
                self.before_draw()
                self._let_go()
            if self._exchange:
                self._exchange.give([row.slot for row in self._running if row.answer.mask is not None])
            stopped = self.core.step()
            if self._exchange:
                self._exchange.fetch()
            progress = self._read([row for row in self._running if not row.done and row not in self._back])
            self._check(stopped, progress=progress)
            self._let_go()
        ended, self._ended = self._ended, []
        return ended

    def _let_go(self) -> None:
        """Free the slots of rows that have ended, and begin those anew that were taken back."""
        self._running.end(self._leaving)
        self._leaving = []
        back, self._back = self._back, []
        for row in back:
            if not row.done:
                self._running.again(row)

    def before_draw(self) -> None:
        """Hand over which tokens may follow, of rows with masks; called when their last tokens are known."""
        masked = [
            row for row in self._running if row.answer.mask is not None and not row.done and row not in self._back
        ]
        self._read(masked)
        for row in masked:
            if row.done or row in self._back or row.answer.mask is None:
                self._running.allow(row, self._everything)
                continue
            if row.answer.retreat():
                self._take_back(row)
            elif (blocked := row.answer.blocked()) is not None:
                self._end(row, blocked)
            stays = not row.done and row not in self._back and row.answer.mask is not None
            self._running.allow(row, row.answer.mask.words() if stays and row.answer.mask else self._everything)

    def _read(self, rows: list[RowState]) -> bool:
        """Hand rows the tokens that have come for them, each one at the most; return whether any has come."""
        came = False
        for row, token_id, prob, rank, flags in self._running.results(rows):
            came = True
            self.row_steps += 1
            answer = row.answer
            row.launched = max(row.launched, answer.generated + 1)
            step, before = answer.generated, len(answer.token_ids)
            finished = answer.see(token_id, prob, rank, flags, is_eos=token_id in self.eos_ids)
            if row.scores is not None:
                row.note(self._running.scores(row, step), before)
            if finished is not None:
                asks = row.request.asked and not step
                self._end(row, row.told(finished, self._running.asked(row) if asks else None))
            elif answer.taken_back:
                self._take_back(row)
            elif answer.closes_thought:
                answer.closes_thought = False
                self._running.call(row)
        return came

    def _take_back(self, row: RowState) -> None:
        """Let a row go on from where its answer was taken back to; what is drawn for it now is of no use."""
        row.answer.taken_back = False
        self._back.append(row)

    def _end(self, row: RowState, finished: Finished) -> None:
        """Return an attempt with this step."""
        row.done = True
        self._leaving.append(row)
        self._ended.append(finished)

    def _check(self, stopped: list[tuple[str, str]], *, progress: bool) -> None:
        """See that no row waits for what will not come.

        Raises:
            RuntimeError: vLLM has ended or forgotten a row whose answer goes on.
        """
        for name, reason in stopped:
            row = self._running.named(name)
            if row is not None and not row.done and row not in self._back:
                raise RuntimeError(f"vLLM's engine has ended a row by itself: {reason}")
        if not (progress or self.core.has_work or self._leaving or self._back):
            raise RuntimeError(f"vLLM's engine has lost {len(self._running)} rows")
