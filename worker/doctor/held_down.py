"""What a generation config does to keep an end token from being chosen."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any


def holding_down(config: Mapping[str, Any], ends: frozenset[int]) -> dict[str, str]:
    """Return the keys of a generation config that hold the end tokens down, and what each does.

    Args:
        config: its values by name, as generation_config.json has them.
        ends: the ids of the end tokens.
    """
    found: dict[str, str] = {}
    for name in ("min_new_tokens", "min_length"):
        if config.get(name):
            found[name] = f"no end within {config[name]} tokens"
    for name, when in (("suppress_tokens", "never"), ("begin_suppress_tokens", "never at the beginning")):
        held = ends & {*_ids(config.get(name))}
        if held:
            found[name] = f"{_listed(held)} {when}"
    banned = {word[0] for word in config.get("bad_words_ids") or () if len(word) == 1}
    if ends & banned:
        found["bad_words_ids"] = f"{_listed(ends & banned)} never"
    biased = {ids[0] for ids, bias in _biases(config.get("sequence_bias")) if len(ids) == 1 and bias < 0}
    if ends & biased:
        found["sequence_bias"] = f"{_listed(ends & biased)} made less likely"
    forced = {*_ids(config.get("forced_eos_token_id"))}
    if forced:
        found["forced_eos_token_id"] = f"{_listed(forced)} in the last place, so that cut answers look ended"
    decay = config.get("exponential_decay_length_penalty")
    if decay:
        found["exponential_decay_length_penalty"] = (
            f"EOS {'raised' if decay[1] > 1 else 'lowered'} from token {decay[0]} on, by {decay[1]} to the power "
            "of what follows"
        )
    return found


def _ids(value: int | Iterable[int] | None) -> Iterable[int]:
    """Return one id or several."""
    return () if value is None else (value,) if isinstance(value, int) else value


def _biases(value: Any) -> Iterable[tuple[tuple[int, ...], float]]:  # noqa: ANN401 - of either form
    """Return token sequences with their biases: transformers has a mapping, its files a list of pairs."""
    pairs = value.items() if isinstance(value, Mapping) else value or ()
    return ((tuple(ids), float(bias)) for ids, bias in pairs)


def _listed(ids: Collection[int]) -> str:
    """Return token ids in words."""
    return "end token " + ", ".join(map(str, sorted(ids)))
