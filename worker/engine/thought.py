"""Which part of a growing answer is thought: told by its tokens, so that watchers are shown the answer alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from endmark.jobs.thinking import Marks, Parts, split
from endmark.worker.engine.text import AnswerText, Vocabulary


@dataclass(frozen=True, slots=True)
class Thought:
    """What a request says of its model's thoughts."""

    marks: Marks
    opened: bool = False  # whether the prompt has opened one
    open_id: int | None = None  # of a mark that is one token; None where it is several
    close_id: int | None = None
    close_ids: tuple[int, ...] = ()  # of a closing mark of several tokens, at the begin of a line; none: they vary
    shown: tuple[tuple[int, bytes], ...] = ()  # control tokens that the marks are made of, which have no text else

    def text_of(self, vocabulary: Vocabulary, token_ids: Sequence[int]) -> str:
        """Return the text of an answer, its marks included."""
        shown = dict(self.shown)
        if shown.keys().isdisjoint(token_ids):
            return vocabulary.text_of(token_ids)
        data = (shown.get(token_id) or vocabulary.bytes_of(token_id) for token_id in token_ids)
        text = b"".join(data).decode("utf-8", "replace")
        return text.removeprefix(" ") if vocabulary.strip_first_space else text

    def split(self, text: str) -> Parts:
        """Split an answer's text, its marks included."""
        return split(text, self.marks, opened=self.opened)


class Parted(NamedTuple):
    """An answer that has ended, in its parts."""

    text: str  # the answer alone
    reasoning: str | None = None
    reasoning_tokens: int = 0
    in_thought: bool = False  # whether it ended inside a thought
    shift: int = 0  # from characters of the last part to those of the text


class ThoughtSoFar:
    """Follows the tokens of one answer through its thoughts.

    The text is looked at only where a mark has just come, so a token costs a comparison or two.

    Attributes:
        is_open: whether the answer is inside a thought.
        closed: how many thoughts were closed.
        tokens: of the thoughts that were closed, marks included.
        first_end: tokens of the answer up to its first closing mark, with it; None before.
        begin: tokens before the last part, its mark included.
        begin_text: characters before it.
        rest: what the last part already has of the token that ended in the mark before it.
    """

    def __init__(self, thought: Thought, vocabulary: Vocabulary, token_ids: Iterable[int]) -> None:
        self._thought, self._vocabulary = thought, vocabulary
        self._shown = dict(thought.shown)
        marks = [mark.encode() for mark in (thought.marks.open, thought.marks.close)]
        ids = (thought.open_id, thought.close_id)
        self._ids = {token_id for token_id in ids if token_id is not None}
        self._split = [mark for mark, token_id in zip(marks, ids, strict=True) if token_id is None]
        self._split += [thought.marks.last.encode()] * bool(thought.marks.last)
        self._reach = max(map(len, self._split), default=1) - 1
        self._tail = b""
        self.is_open, self.closed, self.tokens, self.begin, self.begin_text = thought.opened, 0, 0, 0, 0
        self.rest = ""
        self.first_end: int | None = None
        self._token_ids: list[int] = []
        for token_id in token_ids:
            self.see(token_id)

    def see(self, token_id: int) -> bool:
        """Take the next token; return whether a thought was opened or closed by it."""
        self._token_ids.append(token_id)
        if not (token_id in self._ids or (self._split and self._ends_mark(token_id))):
            return False
        text = self._thought.text_of(self._vocabulary, self._token_ids)
        parts = self._thought.split(text)
        if (parts.is_open, parts.closed) == (self.is_open, self.closed):
            return False
        count = len(self._token_ids)
        if parts.closed > self.closed:  # the first thought begins with the answer, whoever has opened it
            self.tokens += count - (self.begin if self.closed else 0)
            self.first_end = self.first_end or count
        self.is_open, self.closed, self.begin = parts.is_open, parts.closed, count
        self.rest, self.begin_text = text[parts.begin :], parts.begin
        return True

    @property
    def is_first(self) -> bool:
        """Whether the answer is inside a thought, and has closed none."""
        return self.is_open and not self.closed

    def reasoning_tokens(self, count: int) -> int:
        """Return how many of an answer's first `count` tokens are thought."""
        opened = self.begin if self.closed else 0
        return self.tokens + (count - opened if self.is_open else 0)

    def parted(self, token_ids: Sequence[int], text: str | None) -> Parted:
        """Return the parts of the answer, which has ended with these tokens.

        Args:
            token_ids: of the whole answer, no fewer than `begin`.
            text: of the last part, where a watcher has cut it.
        """
        whole = self._thought.text_of(self._vocabulary, token_ids)
        if text is not None:
            whole = whole[: self.begin_text] + text
        parts = self._thought.split(whole)
        answer = parts.answer(whole)
        return Parted(
            text=answer,
            reasoning=parts.reasoning,
            reasoning_tokens=self.reasoning_tokens(len(token_ids)),
            in_thought=parts.is_open,
            shift=len(answer) - len(whole) + parts.begin,
        )

    def view(self) -> AnswerText:
        """Return the text of the last part, for watchers: its tokens are those behind `begin`."""
        return AnswerText(self._vocabulary, self._token_ids[self.begin :], begun=self.rest)

    def _ends_mark(self, token_id: int) -> bool:
        """Whether a mark of several tokens ends in this one."""
        data = self._shown.get(token_id) or self._vocabulary.bytes_of(token_id)
        tail = self._tail + data
        self._tail = tail[-self._reach :] if self._reach else b""
        return any(mark in tail for mark in self._split)
