"""The table of sampling: every parameter once; options, columns, specs, help and device numbers are made from it.

To add one: a field of `Sampling`, its arithmetic on whole logits in `worker/engine`, its line in the kernel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from endmark.jobs.errors import SpecError
from endmark.jobs.sampling_kinds import Biases, Kind, Number, Words


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of sampling."""

    name: str
    kind: Kind
    default: Any
    help: str
    openai: bool  # whether requests of the Batch API have it, under the same name
    generation_config: bool  # whether a model's generation_config.json may set it, under the same name
    drawing: bool  # whether it is without effect at temperature 0
    unset: Any  # what transformers takes where a generation_config samples and does not name it

    @property
    def adjusts(self) -> bool:
        """Whether it changes the scores, and so what greedy rows choose too."""
        return not self.drawing

    @property
    def option(self) -> str:
        """Its option on the command line."""
        return "--" + self.name.replace("_", "-")

    def read(self, where: str, text: str) -> Any:  # noqa: ANN401 - of the parameter's kind
        """Read a value as a user writes it, `where` says in which place.

        Raises:
            SpecError: it is none, or out of range.
        """
        try:
            value = self.kind.read(text)
        except ValueError as error:
            raise SpecError(f"{where}: `{text}` is not {error}") from error
        self.kind.check(self.name, value)
        return value


def _parameter(
    default: Any,  # noqa: ANN401 - of the parameter's kind
    kind: Kind,
    text: str,
    *,
    openai: bool = False,
    generation_config: bool = True,
    drawing: bool = False,
    unset: Any = None,  # noqa: ANN401 - of the parameter's kind
) -> Any:  # noqa: ANN401 - a field
    """Return the field of a parameter."""
    about = (kind, default, text, openai, generation_config, drawing, default if unset is None else unset)
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is drawn. Temperature 0 takes the best token (greedy)."""

    temperature: float = _parameter(
        0.0, Number(float, 0, 2), "0 takes the best token each time.", openai=True, drawing=True, unset=1.0
    )
    top_k: int = _parameter(
        0, Number(int, 0, 2**31 - 1), "Draw from this many best tokens; 0 for all.", drawing=True, unset=50
    )
    top_p: float = _parameter(
        1.0,
        Number(float, 0, 1, above=True),
        "Draw from the best tokens of this mass (nucleus sampling).",
        openai=True,
        drawing=True,
    )
    min_p: float = _parameter(
        0.0, Number(float, 0, 1), "Draw from tokens at least this times as probable as the best.", drawing=True
    )
    repetition_penalty: float = _parameter(
        1.0,
        Number(float, 0, 10, above=True),
        "Divide scores of tokens that the prompt or the answer holds; above 1 makes them less likely.",
    )
    presence_penalty: float = _parameter(
        0.0,
        Number(float, -2, 2),
        "Take this off the scores of tokens that the answer holds.",
        openai=True,
        generation_config=False,
    )
    frequency_penalty: float = _parameter(
        0.0,
        Number(float, -2, 2),
        "Take this off the scores of the answer's tokens, once for each time that they stand in it.",
        openai=True,
        generation_config=False,
    )
    dry_multiplier: float = _parameter(
        0.0,
        Number(float, 0, 100),
        "Make what would repeat a run of the answer less likely, the longer the run the more; 0.8 is usual.",
        generation_config=False,
    )
    no_repeat_ngram_size: int = _parameter(
        0, Number(int, 0, 64), "Let no run of this many tokens come twice, the prompt's included; 0 for off."
    )
    min_new_tokens: int = _parameter(
        0, Number(int, 0, 2**20), "Tokens of the answer before which the model cannot end it."
    )
    logit_bias: tuple[tuple[int, float], ...] = _parameter(
        (),
        Biases(),
        'Add to the scores of tokens, by their ids: {"15": -100}.',
        openai=True,
        generation_config=False,
    )
    bad_words: tuple[str, ...] = _parameter(
        (), Words(), "Texts that the answer may not hold, by commas or as a JSON array.", generation_config=False
    )
    seed: int = _parameter(
        0, Number(int, 0, 2**63 - 1), "Random seed.", openai=True, generation_config=False, drawing=True
    )

    def __post_init__(self) -> None:
        for item in TABLE:
            item.kind.check(item.name, getattr(self, item.name))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the sampling that JSON values stand for, those left out by default.

        Raises:
            SpecError: a value is out of range.
            TypeError: a name is unknown, or a value of another kind.
        """
        kinds = {item.name: item.kind for item in TABLE}
        return cls(
            **{name: kinds[name].from_json(value) if name in kinds else value for name, value in values.items()}
        )

    @property
    def adjusts(self) -> bool:
        """Whether a parameter changes the row's scores."""
        return any(item.adjusts and getattr(self, item.name) != item.default for item in TABLE)

    def set_values(self) -> dict[str, Any]:
        """Return what differs from the defaults, by name: what is stored and told."""
        values = ((item, getattr(self, item.name)) for item in TABLE)
        return {item.name: value for item, value in values if value != item.default}

    def describe(self) -> str:
        """Return it in a few words, the seed left out: `temperature 0.6, top_p 0.9`, or `temperature 0`."""
        others = {name: value for name, value in self.set_values().items() if name not in ("temperature", "seed")}
        return ", ".join([f"temperature {self.temperature:g}", *([written(others)] if others else [])])


TABLE: tuple[Parameter, ...] = tuple(Parameter(item.name, *item.metadata["about"]) for item in fields(Sampling))


def written(values: Mapping[str, Any]) -> str:
    """Return some values of parameters as they are told: `temperature 0.6, top_p 0.9`."""
    kinds = {item.name: item.kind for item in TABLE}
    return ", ".join(f"{name} {kinds[name].write(value)}" for name, value in values.items())
