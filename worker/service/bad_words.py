"""Texts that an answer may not hold, as the token sequences that write them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from endmark.jobs.errors import SpecError
from endmark.worker.engine.layout import LONGEST_WORD

_CACHED = 256  # sets of texts


class _Tokenizer(Protocol):
    """What is used of a tokeniser."""

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Return `input_ids`, a list for each text."""


class BadWords:
    """Turns texts into sequences; each set of texts once, as most rows of a job share theirs."""

    def __init__(self, tokenizer: _Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._found: dict[tuple[str, ...], tuple[tuple[int, ...], ...]] = {}

    def sequences(self, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the texts as token sequences, each as it begins a text and as it stands behind a space.

        Raises:
            SpecError: one has more tokens than can be looked for, or none.
        """
        if not words:
            return ()
        found = self._found.get(words)
        if found is None:
            if len(self._found) >= _CACHED:
                self._found.clear()
            found = self._found[words] = tuple(dict.fromkeys(self._encoded(words)))
        return found

    def _encoded(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the sequences, some perhaps twice."""
        texts = [text for word in words for text in (word, f" {word.lstrip()}")]
        rows = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for text, ids in zip(texts, rows, strict=True):
            if not 0 < len(ids) <= LONGEST_WORD:
                raise SpecError(f"bad_words: `{text.strip()}` is {len(ids)} tokens: must be 1 to {LONGEST_WORD}")
        return [tuple(ids) for ids in rows]
