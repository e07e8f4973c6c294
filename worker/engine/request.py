"""What goes into the engine and what comes out: requests, finished attempts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import Strategy
from endmark.jobs.strategies.base import TakeBack
from endmark.jobs.vocabulary import EosSource, EosTrace, Verdict
from endmark.worker.engine.choices import Choices
from endmark.worker.engine.logprobs import LogProbs, TokenScores
from endmark.worker.engine.masks import TokenMask
from endmark.worker.engine.steering import Insertion, Phase, PhaseEnd
from endmark.worker.engine.thought import Thought


@dataclass(frozen=True, slots=True)
class Request:
    """One attempt to make. `key` is the caller's and must be unique among the requests in the engine."""

    key: int
    prompt_token_ids: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    strategies: tuple[Strategy, ...] = ()
    stream: int = 0  # the row's number: keys its random numbers together with the seed
    trace: bool = False  # keep the EOS probability of every step
    bad_words: Sequence[
        Sequence[int]
    ] = ()  # `sampling.bad_words` as token sequences, of at most LONGEST_WORD each
    answer_token_ids: Sequence[int] = ()  # the answer so far, where the attempt goes on from its own text
    insertion: Insertion | None = None
    # makes the mask of an answer that begins so, and may have so many tokens more, the end token included
    mask: Callable[[Sequence[int], int], TokenMask] | None = None
    phase: Phase | None = None  # that the answer begins with, and is in unless its end stands in the answer so far
    thought: Thought | None = None  # None for a model that does not think
    answer_budget: int | None = None  # new tokens of the answer alone; None: `max_new_tokens` is all there is
    # tokens of all thoughts, after which the insertion closes one that is no phase, such as a second one
    thought_budget: int | None = None
    eos_closes: bool = False  # whether the insertion takes the place of an EOS in such a thought
    asked: Sequence[int] = ()  # tokens whose log probabilities behind the prompt are told; of one-token attempts
    # the same behind the prompt's last tokens but one, of as many as there are here; see `asks_before` of engines
    asked_before: Sequence[Sequence[int]] = ()
    logprobs: int | None = None  # best tokens of each step that are told; None: not the answer's own either
    answer_scores: Sequence[TokenScores] = ()  # of `answer_token_ids`, where they are told
    adapter: str | None = None  # LoRA folder; None: the one that the engine was loaded with, if any
    choices: Choices | None = None  # that are scored instead of drawing an answer; see `ChoosingEngine`

    def livened(self, place: TakeBack, kept: int) -> Sampling:
        """Return how the row draws once it was taken back to so many tokens: no colder, repeating no more."""
        least = kept + place.least if place.least else 0
        return replace(
            self.sampling,
            temperature=max(self.sampling.temperature, place.temperature),
            dry_multiplier=max(self.sampling.dry_multiplier, place.dry_multiplier),
            min_new_tokens=max(self.sampling.min_new_tokens, least),
        )

    def within(self, budget: int) -> "Request":
        """Return the attempt as it fits into fewer new tokens: its thought is shortened, not its answer."""
        insertion, own = self.insertion, self.answer_budget
        if own is None or insertion is None or budget >= self.max_new_tokens:
            return self
        room = max(0, budget - own - len(insertion.token_ids))
        thoughts = None if self.thought_budget is None else min(self.thought_budget, room)
        if room >= insertion.at or self.phase is None:
            return replace(self, thought_budget=thoughts)
        share = room / insertion.at
        before = self.phase.numbers
        numbers = replace(before, start=before.start * share, full=before.full * share)
        phase = replace(self.phase, numbers=numbers)
        return replace(self, insertion=replace(insertion, at=room), phase=phase, thought_budget=thoughts)


@dataclass(frozen=True, slots=True)
class Finished:
    """One attempt that has ended."""

    key: int
    token_ids: tuple[int, ...]  # of the answer kept: without the end token and what a stop cut off
    text: str  # the whole answer without its thoughts, what the request already had included
    verdict: Verdict
    prompt_tokens: int
    completion_tokens: int  # tokens of `token_ids` that this attempt made
    trace: EosTrace
    lengths: tuple[int, ...] = ()  # characters of `text` after each of its last tokens, where it may be trimmed
    rewinds: int = 0  # how often this attempt was taken back
    rewound_tokens: int = 0  # tokens that were dropped then
    end_token_id: int | None = None  # that was sampled; None where the answer did not end with one
    phase_end: PhaseEnd | None = None  # None where the request has no phase, or this attempt has not ended it
    cached_tokens: int = 0  # of the prompt, that had been computed for others; 0 where the engine does not tell
    reasoning: str | None = None  # its thoughts; None where it has none
    reasoning_tokens: int = 0  # of `token_ids`, marks included
    in_thought: bool = False  # whether it ended inside one
    thought_closed: EosSource | None = None  # who closed the last that was closed in this attempt
    asked: tuple[float, ...] = ()  # log probabilities of the tokens that the request asks for
    asked_before: tuple[tuple[float, ...], ...] = ()
    logprobs: LogProbs | None = None  # of `token_ids`, where the request asks for them
    choice_probs: Mapping[str, float] | None = None  # of each label, where the answer was chosen by its score
