"""Labels among which an answer is chosen: the places at which the model is asked, and what its scores come to."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Choices:
    """The labels of a row, each with the tokens that write it. A label ends with any end token.

    A place is the tokens of a label up to some point, none or all of them included. Labels that begin alike share
    places, so all are scored by one look at the model for each place.
    """

    labels: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]  # of each label; no two alike
    eos_ids: tuple[int, ...]  # all end tokens

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest label."""
        return max(map(len, self.token_ids))

    @cached_property
    def places(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        """The tokens that are scored at each place, end tokens included; shorter places before longer ones."""
        found: dict[tuple[int, ...], dict[int, None]] = {}
        for tokens in self.token_ids:
            for at, token_id in enumerate(tokens):
                found.setdefault(tokens[:at], dict.fromkeys(self.eos_ids))[token_id] = None
            found.setdefault(tokens, dict.fromkeys(self.eos_ids))
        return {place: tuple(asked) for place, asked in found.items()}

    def attempts(self, along: int) -> Iterator[tuple[tuple[int, ...], int]]:
        """Return places at which an attempt stands, each with how many places right before it are scored with it.

        Every place is scored once. Each label's last place has an attempt: what the model prefers is known there.

        Args:
            along: the most places that an attempt can score before its own.
        """
        known: set[tuple[int, ...]] = set()
        for tokens in sorted(self.token_ids, key=len):
            seen = next((at for at in range(len(tokens), -1, -1) if tokens[:at] in known), -1)
            known.update(tokens[:at] for at in range(seen + 1, len(tokens) + 1))
            for begin in range(seen + 1, len(tokens) + 1, along + 1):
                end = min(begin + along, len(tokens))
                yield tokens[:end], end - begin

    def probabilities(self, log_probs: Mapping[tuple[int, ...], Sequence[float]]) -> list[float]:
        """Return each label's probability among the labels, which add up to 1.

        Args:
            log_probs: at each place, of the tokens that `places` names there.

        Raises:
            ValueError: they are no numbers, or no label is possible at all.
        """
        known = {place: dict(zip(asked, log_probs[place], strict=True)) for place, asked in self.places.items()}
        sums = [
            sum(known[tokens[:at]][token_id] for at, token_id in enumerate(tokens))
            + _log_sum([known[tokens][token_id] for token_id in self.eos_ids])
            for tokens in self.token_ids
        ]
        whole = _log_sum(sums)
        if not math.isfinite(whole):
            raise ValueError("the scores of the labels are no numbers")
        return [math.exp(item - whole) for item in sums]


def _log_sum(values: Collection[float]) -> float:
    """Return the logarithm of the sum of the values' exponentials."""
    most = max(values)
    if not math.isfinite(most):
        return most
    return most + math.log(math.fsum(math.exp(value - most) for value in values))
