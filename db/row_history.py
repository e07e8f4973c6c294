"""One row with all that was done for it: its cells, and every attempt as it was stored."""

import json
import struct
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from endmark.db.connection import Store
from endmark.db.transactions import reading
from endmark.jobs.vocabulary import Attempt, Ending, EosSource, EosTrace, FinishReason, Part, Verdict


@dataclass(frozen=True, slots=True)
class StoredAttempt:
    """An attempt as it is stored."""

    round: int
    final: bool  # the result of its round
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class RowHistory:
    """One row with all that was done for it."""

    row: int
    cells: list[Any]
    round: int  # in which it is to be answered; -1 not at all
    attempts: tuple[StoredAttempt, ...]  # the oldest first

    @property
    def result(self) -> Attempt | None:
        """The attempt that is the row's result; None while it has none."""
        return next((item.attempt for item in self.attempts if item.final and item.round == self.round), None)


def row_history(store: Store, job_id: str, row: int) -> RowHistory | None:
    """Return one row with its attempts; None if the job has no such row.

    Raises:
        StoreError: the database cannot be used.
    """
    values = {"job": job_id, "row": row}
    with reading(store) as connection:
        found = connection.execute(
            text("SELECT cells, round FROM rows WHERE job_id = :job AND row = :row"), values
        ).one_or_none()
        if found is None:
            return None
        made = connection.execute(
            text("SELECT * FROM attempts WHERE job_id = :job AND row = :row ORDER BY attempt"), values
        ).all()
    attempts = tuple(StoredAttempt(item.round, bool(item.final), stored_attempt(item)) for item in made)
    return RowHistory(row, json.loads(found.cells), found.round, attempts)


def stored_attempt(item: Any) -> Attempt:  # noqa: ANN401 - a row of the table
    """Return an attempt from its row of the table `attempts`."""
    probs, source = item.eos_probs, item.eos_source
    return Attempt(
        row=item.row,
        attempt=item.attempt,
        text=item.text,
        verdict=Verdict(
            FinishReason(item.finish_reason), EosSource(source) if source else None, item.stop_sequence, item.error
        ),
        prompt_tokens=item.prompt_tokens,
        completion_tokens=item.completion_tokens,
        trace=EosTrace(
            prob_max=item.eos_prob_max,
            step_max=item.eos_step_max,
            rank_max=item.eos_rank_max,
            hidden_steps=item.eos_hidden_steps,
            probs=struct.unpack(f"<{len(probs) // 2}e", probs) if probs is not None else None,
        ),
        strategies=item.strategies,
        ending=Ending(item.ending) if item.ending else None,
        trimmed_tokens=item.trimmed_tokens,
        rewinds=item.rewinds,
        rewound_tokens=item.rewound_tokens,
        reasoning=item.reasoning,
        reasoning_tokens=item.reasoning_tokens,
        ended_in=Part(item.ended_in) if item.ended_in else None,
        thought_closed=EosSource(item.thought_closed) if item.thought_closed else None,
        valid=None if item.valid is None else bool(item.valid),
        choice_probs=json.loads(item.choice_probs) if item.choice_probs is not None else None,
        weights=item.weights,
        logprobs=item.logprobs,
        same_as=item.same_as,
        cached_tokens=item.cached_tokens,
    )
