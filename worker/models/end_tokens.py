"""The end tokens of a model: all that its files name and that it has scores for."""

import logging
from collections.abc import Iterable
from typing import Any

from endmark.jobs.errors import ModelError

log = logging.getLogger(__name__)


def end_token_ids(*sources: Any, vocabulary: int) -> frozenset[int]:  # noqa: ANN401
    """Return every end token that a model's generation config, config and tokeniser name, all of them together.

    Args:
        sources: whatever has an `eos_token_id`: a number, several, or None.
        vocabulary: tokens that the model has scores for; ids beyond them are left out, with a warning.

    Raises:
        ModelError: the model has none.
    """
    named: set[int] = set()
    for source in sources:
        value = getattr(source, "eos_token_id", None)
        if value is None:
            continue
        try:
            # A text is one id, and not its digits.
            named.update(
                map(int, value if isinstance(value, Iterable) and not isinstance(value, str) else [value])
            )
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"the model's eos_token_id is {value!r}, and no token's id",
                hint="set eos_token_id in its generation_config.json or config.json",
            ) from error
    found = frozenset(item for item in named if 0 <= item < vocabulary)
    beyond = ", ".join(map(str, sorted(named - found)))
    if not found:
        raise ModelError(
            f"the model names no end token that it has scores for: {beyond} and its {vocabulary} tokens"
            if beyond
            else "the model names no end token",
            hint="set eos_token_id in its generation_config.json",
        )
    if beyond:
        log.warning(
            "end tokens that the model has no scores for are left out: %s (it has %d tokens); eos_token_id in its "
            "generation_config.json, config.json or tokeniser names them",
            beyond,
            vocabulary,
        )
    return found
