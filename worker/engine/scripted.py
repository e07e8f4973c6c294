"""A runner with no model: it samples what a script says, so scheduler and verdicts run in milliseconds."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from endmark.worker.engine.flags import NATURAL
from endmark.worker.engine.logprobs import TokenScores
from endmark.worker.engine.masks import allowed
from endmark.worker.engine.plan import StepPlan, StepResult, Ticket, steering_of
from endmark.worker.engine.steering import RowSteering

_UNLIKELY = -9.0  # log probability of a token of which a script says none


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token with what the device says of it."""

    token_id: int
    eos_prob: float = 0.0
    eos_rank: int = 0
    flags: int = NATURAL
    log_probs: Mapping[int, float] = field(default_factory=dict)  # of tokens that rows ask for


Script = Callable[[Sequence[int]], int | Sampled]  # all tokens of a row so far -> its next token


class ScriptedRunner:
    """Keeps each slot's tokens in its pages, and reads them back through the page table as a model would."""

    def __init__(
        self,
        script: Script,
        *,
        num_pages: int = 64,
        page_size: int = 4,
        max_rows: int = 8,
        context: int = 128,
        prefill_tokens: int = 64,
        overlaps: bool = False,
        refill: int = 1,
        piece_tokens: int | None = None,
        weight_tokens: int = 8,
        eos_ids: Collection[int] = (),
    ) -> None:
        self.num_pages, self.page_size, self.max_rows = num_pages, page_size, max_rows
        self.context, self.prefill_tokens, self.overlaps = context, prefill_tokens, overlaps
        self.refill, self.weight_tokens = refill, weight_tokens
        self.piece_tokens = piece_tokens or prefill_tokens
        self.plans: list[StepPlan] = []
        self._script = script
        self._eos_ids = eos_ids
        self._masks: dict[int, NDArray[np.int32] | None] = {}
        self._logprobs: dict[int, int | None] = {}
        self._steering: dict[int, RowSteering] = {}
        self._memory = [-1] * (num_pages * page_size)
        self._tables: dict[int, list[int]] = {}
        self._last: dict[int, int] = {}

    def launch(self, plan: StepPlan) -> Ticket:
        """Write the step's tokens to the pages and sample from what stands there."""
        self.plans.append(plan)
        for row in plan.prefill:
            self._tables[row.slot] = list(row.pages)
            self._masks[row.slot] = row.mask
            self._logprobs[row.slot] = row.logprobs
            self._steering[row.slot] = steering_of(row)
            if row.copied is not None:
                page, source = (at * self.page_size for at in (row.copied.page, row.copied.source))
                front = self._memory[source : source + row.copied.tokens]
                self._memory[page : page + row.copied.tokens] = front
            for index in range(row.cached, row.end):
                self._memory[self._address(row.slot, index)] = row.token_ids[index]
        decode = plan.decode
        for slot, index, page in decode.new_pages:
            assert index == len(self._tables[slot])
            self._tables[slot].append(page)
        for slot, length in zip(decode.slots, decode.lengths, strict=True):
            self._memory[self._address(slot, length)] = self._last[slot]
        self._masks.update(decode.masks)
        for slot, step, call in zip(decode.slots, decode.steps, decode.calls, strict=False):
            self._steering[slot].call(call, step)
        ticket = Ticket(len(plan.slots), [])
        if not decode.late:
            self._sample(ticket, plan)
        return ticket

    def draw(self, ticket: Ticket, masks: Sequence[tuple[int, NDArray[np.int32]]]) -> None:
        """Sample for the step that was launched last."""
        assert {slot for slot, _ in masks} <= set(self.plans[-1].decode.late)
        self._masks.update(masks)
        self._sample(ticket, self.plans[-1])

    def _sample(self, ticket: Ticket, plan: StepPlan) -> None:
        """Sample from what stands in the pages, and put it into the ticket."""
        sampled = [
            self._steered(
                slot, step, self._script([self._memory[self._address(slot, i)] for i in range(last + 1)])
            )
            for slot, step, last in zip(plan.slots, plan.steps, plan.lengths, strict=True)
        ]
        self._last.update((slot, item.token_id) for slot, item in zip(plan.slots, sampled, strict=True))
        asked = {
            index: tuple(sampled[index].log_probs.get(token_id, _UNLIKELY) for token_id in token_ids)
            for index, token_ids in plan.asked.items()
        }
        assert isinstance(ticket.payload, list)
        ticket.payload.extend((sampled, asked, self._told(plan.slots, sampled), self._before(plan)))

    def read(self, ticket: Ticket) -> StepResult:
        """Return what the step sampled."""
        assert isinstance(ticket.payload, list)
        sampled, asked, told, before = ticket.payload
        return StepResult(
            [item.token_id for item in sampled],
            [item.eos_prob for item in sampled],
            [item.eos_rank for item in sampled],
            [item.flags for item in sampled],
            asked,
            told=told,
            asked_before=before,
        )

    def _before(self, plan: StepPlan) -> dict[int, tuple[tuple[float, ...], ...]]:
        """Return what rows ask about their last tokens but one, by the row's index."""
        found: dict[int, tuple[tuple[float, ...], ...]] = {}
        for index, row in enumerate(plan.ending, len(plan.decode.slots)):
            first = row.end - len(row.asked_before)
            for last, ids in enumerate(row.asked_before, first):
                assert last > row.cached, "what is asked about is computed with the last piece"
                given = self._script([self._memory[self._address(row.slot, place)] for place in range(last)])
                known = given.log_probs if isinstance(given, Sampled) else {}
                told = tuple(known.get(token_id, _UNLIKELY) for token_id in ids)
                found[index] = (*found.get(index, ()), told)
        return found

    def _told(self, slots: Sequence[int], sampled: Sequence[Sampled]) -> dict[int, TokenScores]:
        """Return what the rows that ask for it are told of their tokens, by the row's index."""
        told: dict[int, TokenScores] = {}
        for index, (slot, item) in enumerate(zip(slots, sampled, strict=True)):
            count = self._logprobs[slot]
            if count is not None:
                best = sorted(item.log_probs, key=lambda token_id: -item.log_probs[token_id])[:count]
                ids = [item.token_id, *best]
                known = [item.log_probs.get(token_id, _UNLIKELY) for token_id in ids]
                told[index] = TokenScores(np.array(ids, np.int32), np.array(known, np.float32))
        return told

    def _steered(self, slot: int, step: int, token: int | Sampled) -> Sampled:
        """Return the script's token, or what steers the row to another one."""
        given = token if isinstance(token, Sampled) else Sampled(token)
        drawn, words = given.token_id, self._masks[slot]
        if words is not None:
            kept = allowed(words, max(len(words) * 32, drawn + 1))
            drawn = drawn if kept[drawn] else int(kept.argmax())
        token_id, flags = self._steering[slot].steer(step, drawn, given.flags, self._eos_ids)
        return replace(given, token_id=token_id, flags=flags)

    def _address(self, slot: int, index: int) -> int:
        """Return where a row's token stands in the pages."""
        return self._tables[slot][index // self.page_size] * self.page_size + index % self.page_size
