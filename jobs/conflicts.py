"""Options that contradict each other, and options without effect: told before a job is stored.

Specs that are stored already are not looked at: what ran before still runs, and its rows say how they ended.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from endmark.jobs.errors import SpecError
from endmark.jobs.prompts import DEFAULT_PROMPT
from endmark.jobs.sampling import TABLE
from endmark.jobs.shapes import ShapeKind
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import Think
from endmark.jobs.thinking.marks import NO_MARKS

_DRAWING = tuple(item.name for item in TABLE if item.drawing and item.name not in ("temperature", "seed"))
_OF_ROWS = frozenset(
    ("max_new_tokens", "min_new_tokens", "samples", "temperature", "strategies", "shape", *_DRAWING)
)
_MOST_KNOWN = 4096  # combinations kept


def consistent(spec: GenerationSpec) -> GenerationSpec:
    """Return the spec; refuse options of which one keeps the other from what it is for.

    Raises:
        SpecError: two options of the spec contradict each other; the message names both.
    """
    least, most = spec.sampling.min_new_tokens, spec.max_new_tokens
    if least > most:
        raise SpecError(
            f"min_new_tokens is {least:,} and max_new_tokens {most:,}: an answer cannot have both",
            hint="lower the one or raise the other",
        )
    for item in spec.strategies:
        forced = item.score_numbers(most).force_at
        if 0 <= forced < least:
            raise SpecError(
                f"`{item.name}` ends each answer within max_new_tokens, {most:,}, and min_new_tokens, {least:,}, "
                "forbids that",
                hint=f"min_new_tokens may be {forced:,} at most",
            )
        if isinstance(item, Think) and spec.thinking_marks == NO_MARKS:
            raise SpecError(
                f"`{item.name}` needs a model that thinks, and `--thinking-marks none` says that it does not",
                hint="leave one of the two out",
            )
    if least and spec.shape is not None and spec.shape.kind is ShapeKind.CHOICES:
        raise SpecError(
            f"choices end where a label ends, and min_new_tokens, {least:,}, forbids that",
            hint="leave one of the two out",
        )
    return spec


def without_effect(spec: GenerationSpec, *, own_seed: bool = False) -> Iterator[str]:
    """Yield a sentence for each option of a row that does nothing beside the others.

    Args:
        spec: the row's.
        own_seed: whether it has a seed of its own, and not the job's.
    """
    if spec.template is not None and spec.prompt_column != DEFAULT_PROMPT:
        yield f"the template makes the prompts, whatever `--prompt-column {spec.prompt_column}` names"
    if spec.sampling.temperature > 0:
        if spec.dedupe and (spec.samples > 1 or not own_seed):
            yield "`--dedupe` answers each row that is drawn at random, but for those with a seed of their own"
        return
    if spec.samples > 1:
        yield "the answers of a prompt are all alike at temperature 0; see `--temperature`"
    # A strategy that draws again what it took back has a temperature of its own.
    if not any("temperature" in item.parameters for item in spec.strategies):
        unused = [
            item.name
            for item in TABLE
            if item.name in _DRAWING and getattr(spec.sampling, item.name) != item.default
        ]
        if unused:
            yield f"at temperature 0 the best token is taken, whatever `{'` and `'.join(unused)}` may be"


class RowConflicts:
    """The same for the rows of a job, each combination of their own options looked at once."""

    def __init__(self, spec: GenerationSpec) -> None:
        self._spec = spec
        self._known: dict[tuple[tuple[tuple[str, Any], ...], bool], tuple[str, ...]] = {}

    def notes(self, overrides: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what of a row's options is without effect.

        Args:
            overrides: as `GenerationSpec.with_overrides` takes them.

        Raises:
            SpecError: they contradict each other, or the job's.
        """
        own = tuple((name, value) for name, value in overrides.items() if name in _OF_ROWS)
        key = (own, "seed" in overrides)
        found = self._known.get(key)
        if found is None:
            spec = consistent(self._spec.with_overrides(dict(own)))
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            found = self._known[key] = tuple(without_effect(spec, own_seed=key[1]))
        return found
