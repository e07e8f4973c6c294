"""Where one row stands on the device: its slot, its pages, and the tokens that have been asked for."""

from dataclasses import replace

from endmark.jobs.strategies import ScoreNumbers, score_numbers
from endmark.worker.engine.answer import Answer
from endmark.worker.engine.logprobs import LogProbs, TokenScores
from endmark.worker.engine.plan import Copied, PrefillRow
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.steering import Call


class RowState:
    """A request on its way through the scheduler; how its answer ends is told by `answer`."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.request: Request = answer.request
        self.slot = -1
        self.done = False  # whether it has been returned or dropped
        self.pages: list[int] = []
        self.front = 0  # tokens to be computed before its next one can be sampled, since it was given its slot
        self.spent: int | None = None  # tokens that were computed for its front, again ones too; None: not told
        self.computed = 0  # how many of them stand in its pages when the steps that are planned have run
        self.copied: Copied | None = None  # what its first piece is to copy
        self.launched = 0  # tokens of this attempt that have been asked of the device
        self.stale = 0  # steps in flight whose result for the row is of tokens that were taken back
        # of all the answer's tokens; None where they are not told
        self.scores = list(self.request.answer_scores) if self.request.logprobs is not None else None
        self.call = Call.NONE  # what its next decode step is to tell the device of its insertion
        # where this attempt's own tokens begin
        self.prompt_length = len(self.request.prompt_token_ids) + len(self.request.answer_token_ids)

    def told(
        self, finished: Finished, asked: tuple[float, ...] | None, before: tuple[tuple[float, ...], ...] = ()
    ) -> Finished:
        """Return the finished attempt with what its request asks for, and what its prompt has cost."""
        if self.spent is not None:
            cached = max(0, self.prompt_length - self.spent)
            finished = replace(finished, cached_tokens=min(cached, finished.prompt_tokens))
        if asked is not None:
            finished = replace(finished, asked=asked, asked_before=before)
        if self.scores is not None:
            told = self.scores[: len(finished.token_ids)]
            finished = replace(finished, logprobs=LogProbs(self.answer.vocabulary, told))
        return finished

    def note(self, scores: TokenScores, before: int) -> None:
        """Note what is told of the token that the answer has just been shown, and forget what it has taken back.

        Args:
            scores: of the token.
            before: tokens of the answer before it.
        """
        assert self.scores is not None
        del self.scores[before:]
        self.scores.append(scores)
        del self.scores[len(self.answer.token_ids) :]

    @property
    def token_ids(self) -> list[int]:
        """All tokens, as the model sees them: the prompt's and those of the answer so far."""
        return [*self.request.prompt_token_ids, *self.answer.token_ids]

    @property
    def sharable(self) -> list[int]:
        """Its first tokens that may stand in others' pages: not those behind which something is asked."""
        return self.token_ids[: len(self.token_ids) - len(self.request.asked_before)]

    @property
    def prefilling(self) -> bool:
        """Whether tokens of its front are still to be computed."""
        return self.computed < self.front

    @property
    def length(self) -> int:
        """Tokens of it, those included that have been asked for."""
        return self.prompt_length + self.launched

    @property
    def budget(self) -> int:
        """New tokens, the end token included; it changes where a thought opens or closes."""
        return self.answer.budget

    @property
    def numbers(self) -> ScoreNumbers:
        """What its strategies do to its scores."""
        phase, own = self.request.phase, self.request.answer_budget
        whole = self.answer.whole_budget
        restarts = phase is not None and phase.restarts and own is not None
        return score_numbers(self.request.strategies, min(own, whole) if restarts and own else whole)

    @property
    def looks_at_landings(self) -> bool:
        """Whether numbers of its phase or behind it look at landing spots."""
        phase = self.request.phase
        return self.numbers.after_sentence or (phase is not None and phase.numbers.after_sentence)

    @property
    def waits_for_token(self) -> bool:
        """Whether its mask depends on a token that is in flight."""
        return self.answer.mask is not None and self.launched > self.answer.generated

    def insert(self) -> None:
        """Let the insertion begin with the next token that is asked for; in an open phase, if it is open then."""
        if self.answer.steering.call(self.launched):
            self.call = Call.IN_PHASE if self.answer.steering.phase_open else Call.NOW

    @property
    def position(self) -> int:
        """Tokens that were asked for, those of earlier attempts and those taken back included: no draw twice."""
        return len(self.request.answer_token_ids) + self.launched + self.answer.rewound_tokens

    @property
    def input_position(self) -> int:
        """Where the last token asked for stands in the row: the next decode step takes it in."""
        return self.prompt_length + self.launched - 1

    def plan(self, token_ids: list[int], cached: int) -> PrefillRow:
        """Return what the device is told of the row with each piece of its prompt.

        Args:
            token_ids: all of the row so far.
            cached: how many of them stood in its pages before; those up to `computed` do with this step.
        """
        answer = self.answer
        return PrefillRow(
            slot=self.slot,
            token_ids=tuple(token_ids),
            cached=cached,
            pages=tuple(self.pages),
            step=self.launched,
            position=self.position,
            sampling=answer.sampling,
            numbers=self.numbers,
            stream=self.request.stream,
            bad_words=self.request.bad_words,
            prompt=len(self.request.prompt_token_ids),
            sentence_state=answer.landing_state() if self.looks_at_landings else 0,
            insertion=answer.steering.insertion,
            phase=self.request.phase,
            phase_open=answer.steering.phase_open,
            phase_undecided=answer.steering.phase_undecided,
            matched=answer.steering.matched,
            origin=answer.steering.origin,
            mask=answer.mask.words() if answer.mask is not None else None,
            asked=self.request.asked,
            asked_before=self.request.asked_before,
            logprobs=self.request.logprobs,
            left=self.front - self.computed,
            copied=self.copied,
        )
