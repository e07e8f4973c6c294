"""The plain device path: any transformers decoder, PyTorch attention and sampling; the oracle of the fast one.

It runs where no kernels do, and each step has run when `launch` returns.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from endmark.worker.engine.adjusting import Written, adjust
from endmark.worker.engine.attention import PagedBatch, Span
from endmark.worker.engine.key_shape import key_shape
from endmark.worker.engine.last_layer import KeysWritten, narrow_last_layer
from endmark.worker.engine.layout import SLOT
from endmark.worker.engine.logprobs import TokenScores, told_scores
from endmark.worker.engine.plan import DecodePlan, PrefillRow, StepPlan, StepResult, Ticket
from endmark.worker.engine.scores import Questions, asked_scores, best_scores
from endmark.worker.engine.step_end import StepEnd
from endmark.worker.engine.step_tokens import StepTokens

_LENGTH_SPREAD = 1.5  # decode rows are grouped so that no row's cache is padded beyond this
_CPU_GROUP_BYTES = 3 << 19  # of a group on a CPU: gathered copies that stay in its caches cost a third


class PlainRunner:
    """Runs plans on one model; see `worker.engine.contract.Runner`."""

    overlaps = False
    refill = 1
    piece_tokens = 256
    weight_tokens = 16  # a CPU multiplies but a few times as many numbers as it reads in a time

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
        heads, size = key_shape(config)
        shape = (num_pages, page_size, 2, heads, size)
        layers = range(config.num_hidden_layers)
        page_bytes = page_size * 2 * heads * size * model.dtype.itemsize
        self._group_pages = _CPU_GROUP_BYTES // page_bytes if self._device.type == "cpu" else num_pages
        self._pools = [torch.zeros(shape, dtype=model.dtype, device=self._device) for _ in layers]
        width = min(-(-context // page_size), num_pages) + 1  # a context may be wider than the cache
        self._tables = torch.zeros(max_rows, width, dtype=torch.int64, device=self._device)
        self._rows: dict[int, PrefillRow] = {}  # as they were planned, by slot
        self._tokens = self._ints([0] * (num_pages * page_size))  # those whose keys and values stand in the pool
        self._eos_ids = self._ints(sorted(eos_ids))
        table = sentence_table.to(self._device) if sentence_table is not None else None
        self._end = StepEnd(self._eos_ids, max_rows, table, self._device)
        with torch.inference_mode():
            self._narrows = narrow_last_layer(model, self._trial)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Ticket:
        """Run the step."""
        batch = StepTokens()
        if plan.decode.slots:
            self._decode(plan.decode, batch)
        if plan.prefill:
            self._prefill(plan.prefill, batch, len(plan.decode.slots))
        whole = self._forward(batch).float()
        raw = whole[: len(plan.slots)]
        if not len(raw):
            return Ticket(0, StepResult([], [], [], []))
        self._end.call(plan.decode.slots, plan.decode.steps, plan.decode.calls)
        self._end.mask(plan.masks)
        slots, steps, positions = map(self._ints, (plan.slots, plan.steps, plan.positions))
        adjusted = self._adjusted(raw, slots, [last + 1 for last in plan.lengths])
        drawn = self._end.draw(raw, adjusted, slots, steps, positions)
        if asked := plan.asked:
            others = {len(raw) + index: ids for index, (_, _, ids) in enumerate(batch.others)}
            questions = Questions({**asked, **others}, [row for row, _, _ in batch.others])
            told = asked_scores(whole, questions.asked).tolist()
            drawn.asked, drawn.asked_before = questions.answered(told, len(raw))
        drawn.told = self._told(raw, plan.slots, drawn.token_ids)
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

    def _prefill(self, rows: Sequence[PrefillRow], batch: StepTokens, ended: int) -> None:
        """Set the rows' slots and add their tokens, and the last one of each that has none left.

        Args:
            ended: rows that are sampled before them.
        """
        self._clear([row.pages[-1] for row in rows])  # the last page is filled by the last piece alone
        for row in rows:
            self._set_slot(row.slot, row)
            if row.copied is not None:
                batch.copy(row.copied, self.page_size)
            fresh = self._ints(range(row.cached, row.end))
            table = self._tables[row.slot : row.slot + 1]
            span = self._span(batch.size, table, fresh.unsqueeze(0))
            batch.add(
                self._ints(row.token_ids[row.cached : row.end]), fresh, self._addresses(table[0], fresh), [span]
            )
            if not row.left:
                batch.others += [(ended, batch.count + index, ids) for index, ids in enumerate(row.asked_before)]
                batch.want(span, 1 + len(row.asked_before))
                batch.keep.append(self._ints([batch.count - 1]))
                ended += 1

    def _decode(self, plan: DecodePlan, batch: StepTokens) -> None:
        """Add one token a row, all of which are kept, in the plan's order."""
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
        batch.add(SLOT.of(self._end.records, "last")[slots].long(), positions, write, spans)
        for span in spans:
            batch.want(span, span.rows)
        batch.keep.append(back)

    def _span(self, begin: int, tables: Tensor, positions: Tensor) -> Span:
        """Return rows that attend together.

        Args:
            begin: of their tokens in the batch.
            tables: (B, pages) page tables.
            positions: (B, Q) positions of their new tokens.
        """
        longest = int(positions[:, -1].max()) + 1
        rows, queries = positions.shape
        pages = tables[:, : -(-longest // self.page_size)]
        return Span(begin, rows, queries, pages, positions, fresh=queries == longest)

    def _clear(self, pages: Sequence[int]) -> None:
        """Zero pages that are not filled at once: a NaN that an earlier row left there would pass the mask."""
        if pages:
            taken = self._ints(pages)
            for pool in self._pools:
                pool.index_fill_(0, taken, 0.0)

    def _addresses(self, pages: Tensor, positions: Tensor) -> Tensor:
        """Return where the tokens at these positions of one row stand in the pool."""
        return pages[positions // self.page_size] * self.page_size + positions % self.page_size

    def _forward(self, batch: StepTokens) -> Tensor:
        """Run the model over a step's tokens; return the logits (R, V) of those that are kept."""
        inputs, positions, write = (torch.cat(parts) for parts in (batch.inputs, batch.positions, batch.write))
        self._tokens[write] = inputs
        step = PagedBatch(self._pools, write, batch.spans)
        if batch.sources:
            source, target = self._ints(batch.sources), self._ints(batch.targets)
            self._tokens[target] = self._tokens[source]
            step = replace(step, copied=(source, target))
        keep = torch.cat([*batch.keep, self._ints([place for _, place, _ in batch.others])])
        return self._scores_of(keep, inputs, positions, step, batch)

    def _scores_of(
        self, keep: Tensor, inputs: Tensor, positions: Tensor, step: PagedBatch, batch: StepTokens
    ) -> Tensor:
        """Return the logits (R, V) of the tokens that are kept, as they are counted among those wanted."""
        wanted = self._ints(batch.wanted)
        narrow = self._narrows and len(wanted) < len(inputs)
        if narrow:
            step = replace(step, wanted=wanted, wanted_spans=batch.wanted_spans)
        try:
            output = self._model(
                input_ids=inputs.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=keep if narrow else wanted[keep],
                paged=step,
            )
        except KeysWritten:
            return positions.new_empty((0, 1))
        logits: Tensor = output.logits[0]
        return logits

    def _trial(self, narrow: bool) -> Tensor:
        """Return the scores of two tokens of a row of five, before there is any other."""
        self._narrows = narrow
        places = self._ints(range(5))
        span = self._span(0, self._tables[:1], places.unsqueeze(0))
        batch = StepTokens()
        batch.add(places, places, places, [span])
        batch.want(span, 3)
        step = PagedBatch(self._pools, places, batch.spans)
        return self._scores_of(self._ints([0, 2]), places, places, step, batch)

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
