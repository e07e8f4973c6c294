"""Strategies: one class a file, found by name.

To add one, write its module beside these and name its class in `_CLASSES`, or put it into a package of its own
(`examples/strategy_package`).
"""

from collections.abc import Iterable, Mapping, Sequence

from endmark.jobs.errors import SpecError
from endmark.jobs.spelling import nearest
from endmark.jobs.strategies.base import FollowUp, Place, ScoreNumbers, Strategy, Value
from endmark.jobs.strategies.baseline import Baseline
from endmark.jobs.strategies.concise import Concise
from endmark.jobs.strategies.continuation import Continue
from endmark.jobs.strategies.deadline import Deadline
from endmark.jobs.strategies.eos_reward import EosReward
from endmark.jobs.strategies.eos_reward_published import EosRewardPublished
from endmark.jobs.strategies.escalate import Escalate
from endmark.jobs.strategies.exp_decay import ExpDecay
from endmark.jobs.strategies.no_loops import NoLoops
from endmark.jobs.strategies.parsing import parse_strategies, write_strategies
from endmark.jobs.strategies.registry import Registry
from endmark.jobs.strategies.rewind import Rewind
from endmark.jobs.strategies.soft_landing import SoftLanding
from endmark.jobs.strategies.stop import Stop
from endmark.jobs.strategies.think import Think
from endmark.jobs.strategies.trim import Trim
from endmark.jobs.strategies.whole import Whole
from endmark.jobs.vocabulary import Attempt

__all__ = [
    "REGISTRY",
    "FollowUp",
    "Place",
    "ScoreNumbers",
    "Strategy",
    "Think",
    "amend_prompt",
    "build_strategies",
    "combine",
    "follow_up",
    "score_numbers",
    "thought_numbers",
    "write_strategies",
]

_CLASSES: tuple[type[Strategy], ...] = (
    Baseline,
    Whole,
    EosReward,
    EosRewardPublished,
    SoftLanding,
    Deadline,
    ExpDecay,
    Stop,
    Concise,
    NoLoops,
    Rewind,
    Trim,
    Think,
    Continue,
    Escalate,
)

REGISTRY = Registry(_CLASSES)


def build_strategies(texts: Iterable[str]) -> tuple[Strategy, ...]:
    """Build the strategies that the texts name, each text of the form `name:key=value,…`, joined by `;`.

    Returns:
        The strategies in the order given; `baseline` alone where the texts name none.

    Raises:
        SpecError: an unknown name or parameter, a value out of range, or strategies that do not combine.
    """
    built = [
        _build(name, parameters) for text in texts if text.strip() for name, parameters in parse_strategies(text)
    ]
    return combine(built)


def combine(strategies: Sequence[Strategy]) -> tuple[Strategy, ...]:
    """Return the strategies as one set for a job or a row.

    Raises:
        SpecError: one is named twice, or two of them would set the same scores.
    """
    names = [strategy.name for strategy in strategies]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(
                f"strategy `{name}` is given twice", hint="give its parameters once, separated by commas"
            )
    scoring = [strategy.name for strategy in strategies if strategy.place.is_scores]
    if len(scoring) > 1:
        listed = " and ".join(f"`{name}`" for name in scoring)
        raise SpecError(
            f"{listed} all change the scores and cannot be combined",
            hint="choose one of them; prompt, stop and retry strategies combine with it freely",
        )
    on_thoughts = [item.name for item in strategies if isinstance(item, Think) or _raises_the_mark(item)]
    if len(on_thoughts) > 1:
        raise SpecError(
            f"{' and '.join(f'`{name}`' for name in on_thoughts)} both act on the end of the thought",
            hint="leave out `think`, or the other's `scope`",
        )
    chosen = tuple(strategy for strategy in strategies if strategy.name != Baseline.name)
    return chosen or (Baseline(),)


def _raises_the_mark(strategy: Strategy) -> bool:
    """Whether a strategy on scores acts on the closing mark of a thought."""
    return strategy.place.is_scores and strategy.sees_thought


def amend_prompt(strategies: Iterable[Strategy], prompt: str) -> str:
    """Return the user's prompt as the model is to see it under these strategies."""
    for strategy in strategies:
        prompt = strategy.amend_prompt(prompt)
    return prompt


def score_numbers(strategies: Iterable[Strategy], budget: int) -> ScoreNumbers:
    """Return the score numbers of a row under these strategies; at most one of them gives any."""
    for strategy in strategies:
        if strategy.place.is_scores and strategy.sees_answer:
            return strategy.score_numbers(budget)
    return ScoreNumbers()


def thought_numbers(strategies: Iterable[Strategy], budget: int) -> ScoreNumbers:
    """Return the numbers that act on the closing mark of a row's thought; at most one strategy gives any."""
    for strategy in strategies:
        if isinstance(strategy, Think):
            return strategy.thought_numbers()
        if _raises_the_mark(strategy):
            return strategy.score_numbers(budget)
    return ScoreNumbers()


def follow_up(attempts: Sequence[Attempt], strategies: Sequence[Strategy]) -> FollowUp | None:
    """Return what to try after the last attempt, or None: it was not truncated, or nothing is left to try.

    Going on from the text comes before starting again with another strategy, in whatever order they are given.

    Args:
        attempts: the row's attempts of this round, oldest first, at least one.
        strategies: those of the last attempt.
    """
    if not attempts[-1].verdict.truncated:
        return None
    offers = [offer for item in strategies if (offer := item.follow_up(attempts, strategies))]
    return min(offers, key=lambda offer: not offer.keep_text, default=None)


def _build(name: str, given: Mapping[str, Sequence[str]]) -> Strategy:
    """Build one strategy from the texts given for its parameters."""
    found = REGISTRY.get(name)
    if found is None:
        raise SpecError(
            f"unknown strategy `{name}`",
            hint=nearest(
                name, REGISTRY, "`endmark strategies` lists them; one of another package must be installed"
            ),
        )
    declared = {item.name: item for item in found.declared}
    values: dict[str, Value] = {}
    for key, texts in given.items():
        parameter = declared.get(key)
        if parameter is None:
            known = ", ".join(f"`{item}`" for item in declared) or "none"
            raise SpecError(
                f"strategy `{name}` has no parameter `{key}`",
                hint=nearest(key, declared, f"it takes {known}"),
            )
        if isinstance(parameter.default, tuple):
            values[key] = tuple(texts)
        elif len(texts) > 1:
            raise SpecError(f"strategy `{name}`: `{key}` is given twice")
        else:
            values[key] = parameter.parse(name, texts[0])
    return found(values)
