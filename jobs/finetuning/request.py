"""What a fine-tuning is to do, checked where it is built."""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from endmark.jobs.errors import SpecError
from endmark.jobs.sampling_kinds import check_range
from endmark.jobs.settings import DEMO_MODEL

SPEC_VERSION = 1  # of the JSON form
LEARN_ANSWER = "answer"
_RANGES = {
    "steps": (1, 10**7),
    "rank": (1, 4096),
    "alpha": (1, 10**6),
    "learning_rate": (1e-9, 1.0),
    "batch_size": (1, 4096),
    "accumulate": (1, 4096),
    "max_length": (16, 2**20),
    "seed": (0, 2**31 - 1),
    "held_out": (1, 10**6),
    "save_every": (1, 10**7),
    "max_new_tokens": (1, 2**20),
}


@dataclass(frozen=True, slots=True)
class FinetuneSpec:
    """A QLoRA fine-tuning: the dataset, the model, where the adapter goes, and how it is trained."""

    dataset: str  # a file: chat turns, prompts with answers, or `### Human: … ### Assistant: …` text
    output: str  # the adapter's folder
    model: str = DEMO_MODEL
    prompt_column: str = "prompt"
    answer_column: str | None = None  # None: the first of `ANSWER_COLUMNS` that is there
    steps: int = 250
    batch_size: int = 8  # sequences at once
    accumulate: int = 1  # batches a step
    rank: int = 64
    alpha: int = 16
    dropout: float = 0.1
    learning_rate: float = 2e-4
    max_length: int = 1024  # tokens of a sequence
    learn: str = "all"  # of an example with a thought: `all`, or the `answer` alone
    packing: bool = False  # several short examples in one sequence
    seed: int = 0
    held_out: int = 64  # examples kept for the evaluation; at most a fifth of all
    max_new_tokens: int = 256  # token budget of an answer in the evaluation
    save_every: int = 50  # steps between checkpoints

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            check_range(name, getattr(self, name), low, high)
        if self.learn not in ("all", LEARN_ANSWER):
            raise SpecError(f"learn is `{self.learn}`: must be `all` or `{LEARN_ANSWER}`")
        if not 0.0 <= self.dropout < 1.0:
            raise SpecError(f"dropout is {self.dropout:g}: must be from 0 to less than 1")
        for name in ("dataset", "output", "model"):
            if not getattr(self, name):
                raise SpecError(f"the {name} is empty")

    def to_json(self) -> str:
        """Return the spec as it is stored."""
        return json.dumps({"version": SPEC_VERSION, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "FinetuneSpec":
        """Read a stored spec.

        Raises:
            SpecError: it was written by another version of the program.
        """
        values: dict[str, Any] = json.loads(text)
        if values.pop("version", None) != SPEC_VERSION or not values.keys() <= {item.name for item in fields(cls)}:
            raise SpecError(
                "the fine-tuning's spec was written by another version of Endmark", hint="upgrade Endmark"
            )
        return cls(**values)


@dataclass(frozen=True, slots=True)
class FinetuneProgress:
    """How far a fine-tuning is, as its process tells it, a JSON line at a time."""

    doing: str  # for eyes, such as `training`
    step: int = 0
    steps: int = 0  # 0: what is being done has no steps
    loss: float | None = None
    seconds_left: float | None = None
    notes: tuple[str, ...] = ()  # lines to print as they are

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def without_notes(self, count: int) -> "FinetuneProgress":
        """Return it without the first notes, which are known."""
        return replace(self, notes=self.notes[count:])

    @classmethod
    def from_json(cls, line: str) -> "FinetuneProgress":
        """Read a line."""
        values = json.loads(line)
        return cls(**{**values, "notes": tuple(values["notes"])})
