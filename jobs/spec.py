"""The generation spec of a job: model, adapter, sampling, limits and strategies, checked where it is built."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from endmark.jobs.errors import SpecError
from endmark.jobs.logprobs import MOST
from endmark.jobs.sampling import TABLE, Sampling
from endmark.jobs.sampling_kinds import check_range, whole_number
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.shapes import SHAPE_COLUMNS, Shape, ShapeKind, read_shape
from endmark.jobs.strategies import Strategy, build_strategies, combine, write_strategies
from endmark.jobs.template_args import TEMPLATE_ARGS, check_template_args
from endmark.jobs.thinking import read_marks

_WHOLE = {"max_new_tokens": (1, 2**20), "samples": (1, 128), "logprobs": (0, MOST)}  # numbers and their bounds
ADAPTER = "adapter"  # the column of rows' own adapters
SPEC_VERSION = 1  # of the JSON form in the database
# The fields that every program knows. A later one is written only where it differs from its default, which
# therefore never changes: so workers that are not upgraded yet run what they can, and refuse the rest by name.
_FIRST = frozenset(
    (
        "model adapter strategies max_new_tokens sampling system prompt_column template raw trace row_options"
        " allow_control_tokens"
    ).split()
)


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """What to do with every row of a job; a row's own columns may override sampling, budget and strategies."""

    model: str = DEMO_MODEL  # a hub id, a folder, or the bundled model's name
    adapter: str | None = None  # a folder with a PEFT adapter trained on that model
    strategies: tuple[Strategy, ...] = ()
    max_new_tokens: int = 256
    sampling: Sampling = Sampling()
    system: str | None = None  # a system turn before every prompt
    prompt_column: str = "prompt"
    template: str | None = None  # "Summarise: {text}", filled from the row's columns
    raw: bool = False  # the prompt as it is, without the chat template
    trace: bool = False  # keep the EOS probability of every step
    row_options: bool = True  # whether columns such as `temperature` are options of their rows
    allow_control_tokens: bool = False  # whether `</s>` in a row's text is the control token
    thinking_marks: str | None = None  # `OPEN,CLOSE` around a thought, or `none`; None: as the model shows them
    template_args: dict[str, Any] = field(default_factory=dict)  # that the chat template is given
    shape: Shape | None = None  # that every answer is kept to
    dedupe: bool = False  # answer rows that ask the same once
    samples: int = 1  # answers of each prompt, each a row of the job
    logprobs: int | None = None  # best tokens kept of each step, beside the answer's own; None: neither
    token_healing: bool = False  # whether an answer may go on inside the last token of its prompt

    def __post_init__(self) -> None:
        for name, bounds in _WHOLE.items():
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), *bounds)
        if not self.model:
            raise SpecError("the model is empty")
        if self.raw and self.system is not None:
            raise SpecError("a system turn needs the chat template", hint="leave out `--raw` or `--system`")
        if self.template_args and self.raw:
            raise SpecError("there is no chat template under `--raw`", hint="leave one of the two out")
        if self.thinking_marks is not None:
            read_marks(self.thinking_marks)
        if not self.strategies:
            object.__setattr__(self, "strategies", build_strategies(()))

    def to_json(self) -> str:
        """Return the spec as it is stored; what older programs need not know is left out."""
        values = asdict(replace(self, strategies=(), sampling=Sampling(), shape=None))
        values["shape"] = None if self.shape is None else self.shape.to_json()
        values = {name: value for name, value in values.items() if name in _FIRST or value != _DEFAULTS[name]}
        values["sampling"] = self.sampling.set_values()
        values["strategies"] = write_strategies(self.strategies)
        return json.dumps({"version": SPEC_VERSION, **values}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "GenerationSpec":
        """Read a stored spec.

        Raises:
            SpecError: it was written by another version of the program.
        """
        values = _stored(text)
        version = values.pop("version", None)
        if version != SPEC_VERSION:
            raise _unreadable(f"it is of version {version}, this program reads version {SPEC_VERSION}")
        sampling = values.get("sampling")
        if not isinstance(sampling, dict):
            raise _unreadable("it does not say how to sample")
        for known, given in ((cls, values), (Sampling, sampling)):
            unknown = sorted(given.keys() - {item.name for item in fields(known)})
            if unknown:
                raise _unreadable(f"this program does not know `{'`, `'.join(unknown)}`")
        try:
            values["strategies"] = build_strategies([values["strategies"]])
            values["sampling"] = Sampling.from_json(sampling)
            if values.get("shape") is not None:
                values["shape"] = Shape.from_json(values["shape"])
            return cls(**values)
        except SpecError as error:
            raise _unreadable(str(error)) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _unreadable(f"{type(error).__name__}: {error}") from error

    def with_overrides(self, overrides: Mapping[str, Any]) -> "GenerationSpec":
        """Return the spec of one row, whose overrides are of the types that `OVERRIDES` names."""
        if not overrides:
            return self
        sampling = {key: overrides[key] for key in _SAMPLING if key in overrides}
        others = {key: overrides[key] for key in _OTHERS if key in overrides}
        if TEMPLATE_ARGS in overrides:
            others[TEMPLATE_ARGS] = {**self.template_args, **overrides[TEMPLATE_ARGS]}
        if sampling:
            others["sampling"] = replace(self.sampling, **sampling)
        return replace(self, **others)

    @property
    def queue(self) -> tuple[str, str | None]:
        """What a worker must hold to run this job: the model and the adapter."""
        return self.model, self.adapter


def _stored(text: str) -> dict[str, Any]:
    """Return the values of a stored spec."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _unreadable(f"it is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise _unreadable("it is no JSON object")
    return values


def _unreadable(reason: str) -> SpecError:
    """Return the error for a stored spec that this program cannot read."""
    return SpecError(
        f"the job's spec was written by another version of Endmark: {reason}", hint="upgrade Endmark on this host"
    )


_DEFAULTS = asdict(GenerationSpec())
_SAMPLING = {item.name: item for item in TABLE}
_OTHERS = (
    *_WHOLE,
    "strategies",
    "system",
    "shape",
    ADAPTER,
)  # fields that a row may override, sampling apart


def _read_args(text: str) -> dict[str, Any]:
    """Read a row's own template arguments."""
    where = f"column `{TEMPLATE_ARGS}`"
    try:
        return check_template_args(json.loads(text), where)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{where} is not JSON: {error}") from error


def _read_adapter(text: str) -> str:
    """Read a row's own adapter, whose folder is looked into where the row runs."""
    if not Path(text.strip()).is_absolute():
        raise SpecError(
            f"column `{ADAPTER}`: `{text}` is no whole path of a folder",
            hint="workers run in folders of their own; where the column is data, give `--no-row-options`",
        )
    return text.strip()


def parse_override(column: str, text: str, base: Sequence[Strategy] = ()) -> tuple[str, Any]:
    """Read a row's own value for one of `OVERRIDES`; return the spec's field and the value.

    Args:
        base: the job's strategies. Those of a row take their place, or, written with a `+` before them, join them
            and take the place of those with the same name.

    Raises:
        SpecError: the text is not of the column's type, or its value is out of range.
    """
    if column == "strategy":
        own = text.strip()
        if not own.startswith("+"):
            return "strategies", build_strategies([own])
        added = build_strategies([own[1:]])
        names = {item.name for item in added}
        return "strategies", combine([*(item for item in base if item.name not in names), *added])
    if column in _SAMPLING:
        return column, _SAMPLING[column].read(f"column `{column}`", text)
    if column == TEMPLATE_ARGS:
        return column, _read_args(text)
    if column == ADAPTER:
        return column, _read_adapter(text)
    if column in SHAPE_COLUMNS:
        return "shape", read_shape(ShapeKind(column), text, f"column `{column}`")
    try:
        value = whole_number(text)
    except ValueError as error:
        raise SpecError(f"column `{column}`: `{text}` is not a whole number") from error
    check_range(column, value, *_WHOLE[column])
    return column, value


OVERRIDES = (
    *_SAMPLING,
    *_WHOLE,
    "strategy",
    TEMPLATE_ARGS,
    ADAPTER,
    *SHAPE_COLUMNS,
)  # columns of a dataset that override the spec
STRUCTURED = frozenset(  # those that a JSON value may set
    {
        *(item.name for item in TABLE if item.kind.structured),
        TEMPLATE_ARGS,
        ShapeKind.JSON_SCHEMA,
        ShapeKind.CHOICES,
    }
)
