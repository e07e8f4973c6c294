"""Where two greedy answers to one prompt part, and whether rounding alone can have parted them.

A step with other rows beside a row has another shape, and its sums other last bits. So the log probabilities of
the same text are apart by a little between two runs, and where the two best tokens are closer to each other than
that, either of them may be drawn.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from endmark.jobs.vocabulary import Attempt

BEST = 4  # tokens of each step that the answers must have been asked for (`GenerationSpec.logprobs`)


@dataclass(frozen=True, slots=True)
class _Step:
    token: str  # as JSON
    best: dict[str, float]  # log probabilities of the best tokens, the very best first; as JSON
    greedy: bool  # whether the token is the best by the model's own scores


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two answers part."""

    token: int  # the first that differs, from 0
    moved: float | None  # nats by which both tokens moved against each other; None: not among the best of both
    greedy: bool  # whether both runs took the best token by the model's own scores, there and everywhere before


def parting(one: Attempt, other: Attempt) -> Parting | None:
    """Return where two answers part; None where neither has a token that the other lacks or replaces."""
    before, after = _steps(one), _steps(other)
    common = list(zip(before, after, strict=False))
    at = next((place for place, (a, b) in enumerate(common) if a.token != b.token), len(common))
    if at == len(before) == len(after):
        return None
    greedy = all(step.greedy for step in (*before[: at + 1], *after[: at + 1]))
    if at == len(common):
        return Parting(at, None, greedy)
    return Parting(at, _moved(*common[at], (before[at].token, after[at].token)), greedy)


def movements(one: Attempt, other: Attempt) -> Iterator[float]:
    """Yield the nats by which the two best tokens of a step moved against each other while both runs agree."""
    for before, after in zip(_steps(one), _steps(other), strict=False):
        if before.token != after.token:
            return
        first, second, *_ = before.best
        moved = _moved(before, after, (first, second))
        if moved is not None:
            yield moved


def is_near_tie(found: Parting | None, largest: float) -> bool:
    """Whether rounding alone can have parted two answers.

    Args:
        largest: by which two best tokens moved elsewhere, where both runs drew the same.
    """
    return found is not None and found.greedy and found.moved is not None and found.moved <= largest


def _steps(attempt: Attempt) -> Sequence[_Step]:
    """Return what is known of each token of an answer."""
    if attempt.logprobs is None:
        raise ValueError("the answers have no log probabilities")
    steps = []
    for token, log_prob, best in json.loads(attempt.logprobs):
        names = {json.dumps(name): score for name, score in best}
        steps.append(_Step(json.dumps(token), names, log_prob >= max(names.values())))
    return steps


def _moved(one: _Step, other: _Step, tokens: tuple[str, str]) -> float | None:
    """Return by how much the difference of two tokens changed; None where one is not told of both steps."""
    if any(token not in step.best for step in (one, other) for token in tokens):
        return None
    first, second = tokens
    return abs((one.best[first] - one.best[second]) - (other.best[first] - other.best[second]))
