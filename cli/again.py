"""Asking rows of an ended job again: which ones, and what of the job's spec is changed for them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from endmark.db.connection import Store
from endmark.db.jobs import Job, retry_rows
from endmark.jobs.conflicts import consistent
from endmark.jobs.errors import UsageError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import FinishReason


@dataclass(frozen=True, slots=True)
class Again:
    """Which rows are to be asked again, and how."""

    failed: bool
    truncated: bool
    strategies: Sequence[str] = ()  # as they are written on the command line; none: as before
    max_new_tokens: int | None = None  # None: as before

    def spec_for(self, job: Job) -> GenerationSpec:
        """Return the job's spec with what is changed.

        Raises:
            SpecError: a strategy or the budget is wrong, or contradicts another option of the job.
            UsageError: nothing is changed, so that what was cut would be cut again.
        """
        spec = job.spec
        if self.strategies:
            spec = replace(spec, strategies=build_strategies(self.strategies))
        if self.max_new_tokens is not None:
            spec = replace(spec, max_new_tokens=self.max_new_tokens)
        if self.truncated and spec == job.spec and job.state.is_final:
            raise UsageError(
                "the same prompt with the same spec would be cut again",
                hint="give a `--strategy`, such as `whole` (`think` for thoughts), or a larger `--max-new-tokens`",
            )
        return spec if spec == job.spec else consistent(spec)


def ask_again(store: Store, job: Job, wanted: Again) -> int:
    """Queue rows again; return of how many shards they are, 0 where there is no such row.

    Raises:
        SpecError, UsageError: as `Again.spec_for`.
        JobStateError: the job has not ended.
        StoreError: the database cannot be used.
    """
    reasons = (
        *((FinishReason.ERROR,) if wanted.failed else ()),
        *(reason for reason in FinishReason if wanted.truncated and reason.truncated),
    )
    spec = wanted.spec_for(job)
    return len(retry_rows(store, job.id, spec=spec, reasons=reasons, in_thought=wanted.truncated))
