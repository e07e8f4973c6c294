"""What every engine checks of a request before it takes it: its length, and that the model knows its tokens."""

from collections.abc import Callable
from dataclasses import dataclass

from endmark.jobs.errors import PromptTooLong, TokenUnknown
from endmark.worker.engine.answer import Answer
from endmark.worker.engine.request import Request
from endmark.worker.engine.row import RowState
from endmark.worker.engine.text import Vocabulary


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits of an engine for what it takes."""

    vocabulary: Vocabulary
    context: int  # tokens of the longest row
    embeddings: int | None = None  # of the model; tokens from this one on cannot be computed. None: no limit
    token_name: Callable[[int], str | None] = str  # what the tokeniser calls a token, for messages
    context_reason: str | None = None  # why the context is shorter than the model's

    def row(self, request: Request) -> RowState:
        """Return the attempt as a row; its budget ends where the context does.

        Raises:
            PromptTooLong: the prompt leaves no room for a single new token.
            TokenUnknown: it holds a token that the model has no embedding for.
        """
        self._check_tokens(request)
        length = len(request.prompt_token_ids) + len(request.answer_token_ids)
        if length >= self.context:
            raise PromptTooLong(length, self.context, self.context_reason)
        budget = min(request.max_new_tokens, self.context - length)
        return RowState(Answer(request.within(budget), self.vocabulary, budget))

    def _check_tokens(self, request: Request) -> None:
        """Refuse what would be read beyond the embedding: on a GPU that ends the process, and all its rows."""
        if self.embeddings is None:
            return
        for where, token_ids in (
            ("a label", [token for ids in (*request.asked_before, request.asked) for token in ids]),
            ("the prompt", (*request.prompt_token_ids, *request.answer_token_ids)),
            ("`logit_bias`", [token for token, _ in request.sampling.logit_bias]),
            ("`bad_words`", [token for word in request.bad_words for token in word]),
        ):
            highest = max(token_ids, default=0)
            if highest >= self.embeddings:
                raise TokenUnknown(highest, self.token_name(highest) or "", self.embeddings, where=where)
