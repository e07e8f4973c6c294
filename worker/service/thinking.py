"""How a model thinks: its marks as texts and as tokens, and whether a prompt has opened a thought."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from endmark.jobs.spec import GenerationSpec
from endmark.jobs.thinking import Marks, find_marks, is_opened, read_marks
from endmark.worker.engine.thought import Thought


class Thinking:
    """Finds the thinking marks of one model, once, and of rows whose system turn names some."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - a Hugging Face tokeniser
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._ids = {token.content: token_id for token_id, token in added.items()}
        self._special = {token.content: token_id for token_id, token in added.items() if token.special}
        self.marks = find_marks(self._ids, [str(tokenizer.chat_template or "")])
        self._known: dict[Marks, Thought] = {}

    def of(self, spec: GenerationSpec, turns: Sequence[dict[str, str]], text: str) -> Thought | None:
        """Return what is known of a row's thoughts; None if its model is not known to think.

        Args:
            spec: the row's.
            turns: its chat turns.
            text: its prompt as the model is to see it.
        """
        if spec.thinking_marks is not None:
            marks = read_marks(spec.thinking_marks)
        else:
            marks = self.marks or find_marks((), (turn["content"] for turn in turns if turn["role"] == "system"))
        if marks is None:
            return None
        if marks not in self._known:
            self._known[marks] = self._thought(marks)
        thought = self._known[marks]
        return replace(thought, opened=True) if is_opened(text, marks, raw=spec.raw) else thought

    def _thought(self, marks: Marks) -> Thought:
        """Return the marks with their tokens."""
        shown = {
            token_id: name.encode()
            for name, token_id in self._special.items()
            if name in marks.open or name in marks.close
        }
        return Thought(
            marks,
            open_id=self._ids.get(marks.open),
            close_id=self._ids.get(marks.close),
            shown=tuple(shown.items()),
        )
