"""The plain device path: any transformers decoder, PyTorch attention and sampling; the oracle of the fast one.

It runs where no kernels do, and each step has run when `launch` returns.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from endmark.worker.engine.adjusting import Written, adjust
from endmark.worker.engine.attention import PagedBatch, Span
from endmark.worker.engine.layout import SLOT
from endmark.worker.engine.logprobs import TokenScores, told_scores
from endmark.worker.engine.plan import (
    DecodePlan,
    PrefillPlan,
    PrefillRow,
    StepResult,
    Ticket,
)
from endmark.worker.engine.scores import asked_scores, best_scores, told_by_row
from endmark.worker.engine.step_end import StepEnd

_LENGTH_SPREAD = 1.5  # decode rows are grouped so that no row's cache is padded beyond this
_CPU_GROUP_BYTES = 3 << 19  # of a group on a CPU: gathered copies that stay in its caches cost a third


class PlainRunner:
    """Runs plans on one model; see `worker.engine.contract.Runner`."""

    overlaps = False
    refill = 1

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: Iterable[int],
        *,
        num_pages: int,
        page_size: int,
        max_rows: int,
        prefill_tokens: int,
        context: int,
        sentence_table: Tensor | None = None,
    ) -> None:
        """Make the cache and the slots.

        Args:
            model: loaded with the attention `endmark_plain`.
            eos_ids: all end tokens.
            sentence_table: (STATES, V) uint8 of `jobs.landing.tabulate`; needed only by strategies that look
                at landing spots.
        """
        self.num_pages, self.page_size, self.max_rows = num_pages, page_size, max_rows
        self.prefill_tokens, self.context = prefill_tokens, context
        self._model = model
        self._device = model.device
        config = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (num_pages, page_size, 2, heads, size)
        layers = range(config.num_hidden_layers)
        page_bytes = page_size * 2 * heads * size * model.dtype.itemsize
        self._group_pages = _CPU_GROUP_BYTES // page_bytes if self._device.type == "cpu" else num_pages
        self._pools = [torch.zeros(shape, dtype=model.dtype, device=self._device) for _ in layers]
        self._tables = torch.zeros(max_rows, -(-context // page_size) + 1, dtype=torch.int64, device=self._device)
        self._rows: dict[int, PrefillRow] = {}  # as they were planned, by slot
        self._tokens = self._ints([0] * (num_pages * page_size))  # those whose keys and values stand in the pool
        self._eos_ids = self._ints(sorted(eos_ids))
        table = sentence_table.to(self._device) if sentence_table is not None else None
        self._end = StepEnd(self._eos_ids, max_rows, table, self._device)

    @torch.inference_mode()
    def launch(self, plan: PrefillPlan | DecodePlan) -> Ticket:
        """Run the step."""
        if isinstance(plan, PrefillPlan):
            slots, logits = self._prefill(plan)
            steps = self._ints([row.step for row in plan.rows])
            positions = self._ints([row.position for row in plan.rows])
            lengths: Sequence[int] = [len(row.token_ids) for row in plan.rows]
        else:
            slots, logits = self._decode(plan)
            steps, positions = self._ints(plan.steps), self._ints(plan.positions)
            lengths = [length + 1 for length in plan.lengths]
            self._end.call(plan.slots, plan.steps, plan.calls)
            self._end.mask(plan.masks)
        raw = logits.float()
        drawn = self._end.draw(raw, self._adjusted(raw, slots, lengths), slots, steps, positions)
        if isinstance(plan, PrefillPlan):
            asked = {index: row.asked for index, row in enumerate(plan.rows) if row.asked}
            drawn.asked = told_by_row(asked_scores(raw, asked).tolist(), asked) if asked else {}
        drawn.told = self._told(raw, slots.tolist(), drawn.token_ids)
        return Ticket(len(steps), drawn)

    def read(self, ticket: Ticket) -> StepResult:
        """Return what the step sampled."""
        assert isinstance(ticket.payload, StepResult)
        return ticket.payload

    def _told(self, raw: Tensor, slots: Sequence[int], tokens: Sequence[int]) -> dict[int, TokenScores]:
        """Return what the rows that ask for it are told of their tokens, by the row's index."""
        told = {index: self._rows[slot].logprobs for index, slot in enumerate(slots)}
        asked = {index: count for index, count in told.items() if count is not None}
        return told_scores(best_scores(raw, self._ints(tokens)).cpu().numpy(), asked) if asked else {}

    def _prefill(self, plan: PrefillPlan) -> tuple[Tensor, Tensor]:
        """Set the rows' slots and compute their tokens; return the slots and the last tokens' logits."""
        spans: list[Span] = []
        inputs: list[int] = []
        positions: list[int] = []
        last: list[int] = []
        for row in plan.rows:
            self._set_slot(row.slot, row)
            fresh = range(row.cached, len(row.token_ids))
            begin = len(inputs)
            inputs += row.token_ids[row.cached :]
            positions += fresh
            last.append(len(inputs) - 1)
            table = self._tables[row.slot : row.slot + 1]
            spans.append(self._span(begin, table, self._ints([list(fresh)])))
        self._clear([row.pages[-1] for row in plan.rows])
        write = torch.cat([self._addresses(span.pages[0], span.positions[0]) for span in spans])
        logits = self._forward(self._ints(inputs), self._ints(positions), write, spans, self._ints(last))
        return self._ints([row.slot for row in plan.rows]), logits

    def _decode(self, plan: DecodePlan) -> tuple[Tensor, Tensor]:
        """Compute one token a row; return the slots and the logits, in the plan's order."""
        for slot, index, page in plan.new_pages:
            self._tables[slot, index] = page
        self._clear([page for _, _, page in plan.new_pages])
        order = sorted(range(len(plan.slots)), key=plan.lengths.__getitem__)
        slots = self._ints([plan.slots[index] for index in order])
        positions = self._ints([plan.lengths[index] for index in order])
        spans = []
        pages = [-(-(plan.lengths[index] + 1) // self.page_size) for index in order]
        # Where a group is padded stands the row's own first page, and never another row's.
        own = torch.arange(pages[-1], device=self._device) < self._ints(pages).unsqueeze(-1)
        tables = torch.where(own, self._tables[slots, : pages[-1]], self._tables[slots, :1])
        for begin, end in _groups(pages, self._group_pages):
            spans.append(self._span(begin, tables[begin:end], positions[begin:end].unsqueeze(-1)))
        write = self._tables[slots, positions // self.page_size] * self.page_size + positions % self.page_size
        back = torch.empty_like(slots)
        back[self._ints(order)] = torch.arange(len(order), device=self._device)
        logits = self._forward(SLOT.of(self._end.records, "last")[slots].long(), positions, write, spans, back)
        return self._ints(plan.slots), logits

    def _span(self, begin: int, tables: Tensor, positions: Tensor) -> Span:
        """Return rows that attend together.

        Args:
            begin: of their tokens in the batch.
            tables: (B, pages) page tables.
            positions: (B, Q) positions of their new tokens.
        """
        longest = int(positions[:, -1].max()) + 1
        return Span(begin, len(tables), positions.shape[1], tables[:, : -(-longest // self.page_size)], positions)

    def _clear(self, pages: Sequence[int]) -> None:
        """Zero pages that are not filled at once: a NaN that an earlier row left there would pass the mask."""
        if pages:
            taken = self._ints(pages)
            for pool in self._pools:
                pool.index_fill_(0, taken, 0.0)

    def _addresses(self, pages: Tensor, positions: Tensor) -> Tensor:
        """Return where the tokens at these positions of one row stand in the pool."""
        return pages[positions // self.page_size] * self.page_size + positions % self.page_size

    def _forward(
        self, inputs: Tensor, positions: Tensor, write: Tensor, spans: list[Span], keep: Tensor
    ) -> Tensor:
        """Run the model over T packed tokens; return the logits (R, V) of the tokens at `keep`."""
        self._tokens[write] = inputs
        batch = PagedBatch(self._pools, write, spans)
        output = self._model(
            input_ids=inputs.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=keep,
            paged=batch,
        )
        logits: Tensor = output.logits[0]
        return logits

    def _adjusted(self, logits: Tensor, slots: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the scores (R, V) after the rows' penalties; the same tensor where no row has any."""
        chosen = SLOT.of(self._end.records, "adjusted")[slots].nonzero().squeeze(-1)
        if not len(chosen):
            return logits
        slots, ends = slots[chosen], self._ints(lengths)[chosen].unsqueeze(-1)
        places = torch.arange(int(ends.max()), device=self._device).minimum(ends - 1)
        pages = self._tables[slots].gather(1, places // self.page_size)
        rows = [self._rows[slot] for slot in slots.tolist()]
        prompts = self._ints([[row.prompt] for row in rows])
        written = Written(self._tokens[pages * self.page_size + places % self.page_size], ends, prompts)
        scores = logits[chosen]
        adjust(scores, rows, written, self._eos_ids)
        return scores if len(chosen) == len(logits) else logits.index_copy(0, chosen, scores)

    def _set_slot(self, slot: int, row: PrefillRow) -> None:
        """Store what the row keeps between steps."""
        self._tables[slot, : len(row.pages)] = self._ints(row.pages)
        self._rows[slot] = row
        self._end.admit(row)

    def _ints(self, values: Sequence[int] | Sequence[list[int]]) -> Tensor:
        """Return int64 on the device."""
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def _groups(pages: Sequence[int], most: int) -> Iterable[tuple[int, int]]:
    """Cut rows with ascending numbers of pages into groups of not too different ones, padded to `most` in all."""
    begin = 0
    for index, count in enumerate(pages):
        if index > begin and (count > pages[begin] * _LENGTH_SPREAD + 1 or (index - begin + 1) * count > most):
            yield begin, index
            begin = index
    yield begin, len(pages)
