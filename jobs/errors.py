"""Every error that Endmark raises on purpose; `cli` turns them into text once.

EndmarkError                 exit code 1
├── UsageError               exit code 2: the call or its input is wrong
│   ├── SpecError            an option, a strategy or a parameter
│   └── DatasetError         rows that cannot be used, each named as file:line
├── JobNotFound              no job of that id
├── JobStateError            the job cannot do that now
├── StoreError               the database cannot be used
│   └── SchemaError          its schema is older or newer than this program
├── BrokerError              the broker cannot be reached or started
├── ModelError               the model cannot be loaded
│   └── Refusal              Endmark's own engine would get it wrong; another engine may run it
├── MissingDependency        an optional extra is not installed
├── PromptTooLong            one row's prompt leaves no room in the model's context
├── TokenUnknown             one row's prompt has a token that the model has no embedding for
├── WorkerFailed             the worker that this process started has ended before the job
├── Interrupted              exit code 130: Ctrl-C; the message says how to go on
└── LeaseLost                another worker holds the shard now; nothing was written
"""

from collections.abc import Sequence
from dataclasses import dataclass


class EndmarkError(Exception):
    """Something Endmark cannot do; `hint` names the fix."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EndmarkError):
    """The call is wrong; nothing was done."""

    exit_code = 2


class SpecError(UsageError):
    """An option, a strategy or a parameter is wrong."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One bad line of a dataset. `line` counts from 1; 0 speaks of the file as a whole."""

    source: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}" if self.line else f"{self.source}: {self.reason}"


class DatasetError(UsageError):
    """The dataset has rows that cannot be used; `problems` holds the first of them, `count` is of all."""

    def __init__(self, problems: Sequence[Problem], count: int, *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        self.count = count
        lines = [str(problem) for problem in self.problems]
        if count > len(lines):
            lines.append(f"… and {count - len(lines):,} more")
        super().__init__("\n".join(lines), hint=hint)


class JobNotFound(EndmarkError):
    """There is no job, or no fine-tuning, of that id."""

    def __init__(self, job_id: str, *, hint: str = "`endmark status` lists the jobs", what: str = "job") -> None:
        super().__init__(f"no {what} `{job_id}`", hint=hint)


class JobStateError(EndmarkError):
    """The job is in a state in which it cannot do that."""


class StoreError(EndmarkError):
    """The database cannot be used."""


class SchemaError(StoreError):
    """The database's schema is not the one this program writes."""


class BrokerError(EndmarkError):
    """The broker cannot be reached or started."""


class ModelError(EndmarkError):
    """The model cannot be loaded."""


class Refusal(ModelError):
    """Endmark's own engine would get the model wrong, or does not know its kind; another engine may run it."""


class MissingDependency(EndmarkError):
    """An optional part of Endmark is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra `{extra}`", hint=f"pip install 'endmark[{extra}]'")


class PromptTooLong(EndmarkError):
    """The prompt leaves no room for an answer in the model's context."""

    def __init__(self, tokens: int, limit: int, reason: str | None = None) -> None:
        super().__init__(
            f"the prompt has {tokens:,} tokens and the model's context holds {limit:,}"
            + (f": {reason}" if reason else ""),
            hint="shorten the prompt or choose a model with a longer context",
        )


class TokenUnknown(EndmarkError):
    """The prompt holds a token that the tokeniser knows and the model has no embedding for."""

    def __init__(self, token_id: int, text: str, embeddings: int, *, where: str = "the prompt") -> None:
        named = f"{token_id} `{text}`" if text else str(token_id)
        super().__init__(
            f"{where} holds the token {named}, and the model's embedding ends at {embeddings - 1}",
            hint=f"take it out of {where}, or give the model the tokeniser that it was trained with",
        )


class LeaseLost(EndmarkError):
    """The shard's fence has moved on: another worker holds it, and this one's write was refused."""


class WorkerFailed(EndmarkError):
    """The worker ended before its work did."""


class Interrupted(EndmarkError):
    """The user ended the command; what it had done so far is kept."""

    exit_code = 130
