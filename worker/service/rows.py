"""One row on its way: its requests to the engine, and the attempts they became."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from endmark.jobs.endings import ending_of, whole_part
from endmark.jobs.logprobs import without_last
from endmark.jobs.shapes.validity import is_valid
from endmark.jobs.strategies import Strategy, follow_up, write_strategies
from endmark.jobs.vocabulary import (
    Attempt,
    Ending,
    EosSource,
    FinishReason,
    Outcome,
    Part,
    StoredRow,
    Verdict,
)
from endmark.worker.engine.request import Finished, Request
from endmark.worker.service.prompting import Prompt, Prompter
from endmark.worker.service.thinking import steered


@dataclass(slots=True)
class RowRun:
    """A row of a claimed shard. All its attempts are stored together, when the last of them has ended."""

    row: StoredRow
    prompt: Prompt  # under the strategies of the attempt that runs
    weights: str | None = None  # of the engine that runs it
    stream: int | None = None  # of its random numbers; None: its own, by the row's number
    attempts: list[Attempt] = field(default_factory=list)  # of this claim, oldest first
    last: Finished | None = None  # what the engine returned for the last of them

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """The strategies of the attempt that runs."""
        return self.prompt.spec.strategies

    def first_request(self, key: int) -> Request:
        """Return the request of the row's first attempt."""
        return self._request(key)

    def conclude(self, finished: Finished) -> Attempt:
        """Add what the engine returned to the row's attempts."""
        finished = self._own(finished)
        part = Part.REASONING if finished.in_thought else Part.ANSWER
        attempt = Attempt(
            row=self.row.row,
            attempt=self.row.attempts + len(self.attempts) + 1,
            text=finished.text,
            verdict=finished.verdict,
            prompt_tokens=finished.prompt_tokens,
            completion_tokens=len(finished.token_ids),
            cached_tokens=finished.cached_tokens,
            trace=finished.trace,
            strategies=write_strategies(self.strategies),
            rewinds=finished.rewinds,
            rewound_tokens=finished.rewound_tokens,
            reasoning=finished.reasoning,
            reasoning_tokens=finished.reasoning_tokens,
            ended_in=part if finished.verdict.finish_reason.has_answer else None,
            thought_closed=finished.thought_closed or self._closed_before(finished),
            valid=self._valid(finished),
            logprobs=finished.logprobs.stored() if finished.logprobs is not None else None,
            choice_probs=finished.choice_probs,
            weights=self.weights,
        )
        self.attempts.append(attempt)
        self.last = finished
        return attempt

    def _own(self, finished: Finished) -> Finished:
        """Return the attempt without what its prompt has begun of the answer."""
        begun = self.prompt.begun
        if not begun:
            return finished
        shift = len(begun)
        lengths = tuple(max(0, length - shift) for length in finished.lengths)
        return replace(finished, text=finished.text[shift:], lengths=lengths)

    def _closed_before(self, finished: Finished) -> EosSource | None:
        """Return who closed the thought of an answer that went on behind it; its attempt said so."""
        went_on = finished.completion_tokens < len(finished.token_ids)
        return self.attempts[-1].thought_closed if self.attempts and went_on else None

    def outcome(self) -> Outcome:
        """Return what the row has come to: its last answer trimmed where a strategy says so, endings judged."""
        *before, last = (_judged(item, cut=item.verdict.truncated) for item in self.attempts)
        lengths = self.last.lengths if self.last is not None else ()
        if lengths and not last.complete:
            last = _trimmed(last, lengths)
        return Outcome(self.row.round, (*before, last))

    def next_request(self, finished: Finished, key: int, prompter: Prompter) -> Request | None:
        """Return the request of the attempt that a strategy asks for after this one; None if it was the last."""
        following = follow_up(self.attempts, self.strategies)
        if following is None:
            return None
        prompt = self.prompt
        if following.strategies != self.strategies:
            prompt = prompter.again(prompt, following.strategies)
        if following.max_new_tokens is not None:
            prompt = replace(prompt, spec=replace(prompt.spec, max_new_tokens=following.max_new_tokens))
        if prompt.error is not None:
            return None
        self.prompt = prompt
        request = self._request(key)
        if not following.keep_text:
            return request
        scores = finished.logprobs.tokens if finished.logprobs is not None else ()
        return replace(request, answer_token_ids=finished.token_ids, answer_scores=scores)

    def _valid(self, finished: Finished) -> bool | None:
        """Return whether an answer is a whole value of the row's shape; None where there is no shape or answer."""
        shape = self.prompt.spec.shape
        if shape is None or not finished.verdict.finish_reason.has_answer:
            return None
        return is_valid(shape, finished.text)

    def _request(self, key: int) -> Request:
        """Return a request under the row's spec."""
        spec = self.prompt.spec
        request = Request(
            key=key,
            prompt_token_ids=self.prompt.token_ids,
            max_new_tokens=spec.max_new_tokens,
            sampling=spec.sampling,
            strategies=spec.strategies,
            stream=self.row.row if self.stream is None else self.stream,
            trace=spec.trace,
            bad_words=self.prompt.bad_words,
            thought=self.prompt.thought,
            mask=self.prompt.mask,
            choices=self.prompt.choices,
            adapter=spec.adapter,
            logprobs=spec.logprobs,
        )
        return steered(request, self.prompt.closing)


def _judged(attempt: Attempt, *, cut: bool) -> Attempt:
    """Return the attempt with its ending."""
    if attempt.ended_in is Part.REASONING:
        return replace(attempt, ending=Ending.EMPTY)
    return replace(attempt, ending=ending_of(attempt.text, cut=cut))


def _trimmed(attempt: Attempt, lengths: Sequence[int]) -> Attempt:
    """Return the attempt without what stands behind the last place where its answer is whole, if there is one."""
    kept = whole_part(attempt.text, lengths)
    if not kept:
        return attempt
    trimmed = len(lengths) - kept
    text = attempt.text[: lengths[kept - 1]].rstrip()  # a full stop and the blank line behind it may be one token
    part = replace(
        attempt,
        text=text,
        completion_tokens=attempt.completion_tokens - trimmed,
        trimmed_tokens=trimmed,
        logprobs=without_last(attempt.logprobs, trimmed) if attempt.logprobs is not None else None,
    )
    return _judged(part, cut=False)


def unstorable(number: int, row: int, attempt: int, error: str) -> Outcome:
    """Return the outcome of a row of a round whose own answer could not be judged or stored."""
    verdict = Verdict(FinishReason.ERROR, error=error)
    return Outcome(number, (Attempt(row, attempt, "", verdict, prompt_tokens=0, completion_tokens=0),))
