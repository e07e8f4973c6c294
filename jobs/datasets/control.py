"""The control tokens of a model whose files are on this machine, to tell of their text in a dataset."""

import json
import re
from functools import lru_cache

from endmark.jobs.hub import local_folder


@lru_cache(1)
def control_tokens(model: str) -> re.Pattern[str] | None:
    """Return a pattern of a model's control tokens; None if its files are not on this machine, or it has none."""
    folder = local_folder(model)
    if folder is None:
        return None
    try:
        values = json.loads((folder / "tokenizer.json").read_bytes())
        names = [item["content"] for item in values["added_tokens"] if item["special"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the worker, which loads the tokeniser whole, says what is wrong with it
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None
