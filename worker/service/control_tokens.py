"""Text of control tokens, such as `</s>`, in what users hand in: tokenised as the text that it is.

The chat template's own control tokens stay what they are. Both come to the tokeniser in one text, so that every
other token is the one that the text always had: a mark is put between the characters of each control token in the
contents, and a copy of the tokeniser takes the marks out behind the place where it looks for control tokens.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from endmark.jobs.errors import SpecError

_MARK = "\ufdd0\ufdd1"  # two of the characters that Unicode keeps free for a program's own use


class ControlTokens:
    """The control tokens of one tokeniser: those that it marks as special."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - a Hugging Face tokeniser
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        names = sorted({token.content for token in added if token.special}, key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, names))) if names else None
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._copy: Any = None

    def are_in(self, texts: Iterable[str]) -> bool:
        """Whether one of the texts holds a control token's text."""
        return self._found is not None and any(self._found.search(text) for text in texts)

    def shield(self, text: str) -> str:
        """Return the text with marks inside its control tokens, for `encode`.

        Raises:
            SpecError: that cannot be done with this text or tokeniser.
        """
        if self._found is None:
            return text
        if self._backend is None or _MARK in text:
            raise SpecError(
                "the prompt holds the text of a control token, and the tokeniser cannot take it as text",
                hint="`--allow-control-tokens` takes it as a control token",
            )
        return self._found.sub(lambda match: _MARK.join(match[0]), text)

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """Return the token ids of texts with shielded parts."""
        if self._copy is None:
            self._copy = _without_marks(self._backend)
        encoded = self._copy.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [item.ids for item in encoded]


def _without_marks(backend: Any) -> Any:  # noqa: ANN401 - a tokeniser of the package `tokenizers`
    """Return a copy of a tokeniser that takes marks out of the text, after it has found the control tokens."""
    values = json.loads(backend.to_str())
    removal = {"type": "Replace", "pattern": {"String": _MARK}, "content": ""}
    own = [values["normalizer"]] if values["normalizer"] else []
    values["normalizer"] = {"type": "Sequence", "normalizers": [removal, *own]}
    for token in values["added_tokens"]:
        token["normalized"] = token["normalized"] and not token["special"]
    copy = type(backend).from_str(json.dumps(values))
    copy.no_padding()
    copy.no_truncation()
    return copy
