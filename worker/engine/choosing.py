"""An engine that also answers with the most probable of given labels, made of any that scores tokens.

Every label becomes an attempt of one token in the engine beneath, behind the row's prompt and the label, which
also tells what the model gives along the label; of an engine that cannot, every place of the labels becomes one.
Pages are shared, and the front of the last one is copied: the prompt is computed once, and each attempt costs the
label's own tokens, mostly in the prompt's own step. Of thousands of labels no more attempts wait in the engine
beneath than it has slots.
"""

import itertools
import math
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from endmark.jobs.errors import EndmarkError
from endmark.jobs.sampling import Sampling
from endmark.jobs.vocabulary import EosSource, EosTrace, FinishReason, Verdict
from endmark.worker.engine.choices import Choices
from endmark.worker.engine.contract import Capacity, InferenceEngine
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.text import Vocabulary

_Place = tuple[int, ...]
_ALONG = 12  # places before its own that an attempt asks about: fewer than the tokens of the smallest pass


@dataclass(slots=True)
class _Choice:
    """A row whose labels are being scored."""

    request: Request
    choices: Choices
    rest: Iterator[tuple[_Place, int]]  # attempts that the engine beneath has not been given, as of `Choices`
    keys: dict[int, tuple[_Place, int]] = field(default_factory=dict)  # of the attempts that have not ended
    found: dict[_Place, "_Seen"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the model gives at one place."""

    log_probs: tuple[float, ...]  # of the tokens that are scored there
    eos_prob: float
    cached_tokens: int  # of the row's prompt, for the attempt that has found it
    eos_rank: int | None = None  # known where an attempt stands, as is whether the model would end there
    ends: bool = False


class ChoosingEngine:
    """An `InferenceEngine` over another, whose keys are not negative: those are of the attempts it makes itself.

    Args:
        engine: that runs the attempts.
    """

    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine
        self._keys = itertools.count(-1, -1)
        self._open: dict[int, _Choice] = {}  # by the row's key
        self._queue: deque[_Choice] = deque()  # with places left, oldest first; cancelled ones too
        self._along = _ALONG if engine.asks_before else 0
        self.asks_before = engine.asks_before
        self._row_of: dict[int, int] = {}  # the row's key, by that of an attempt for it
        self.vocabulary: Vocabulary = engine.vocabulary
        self.eos_ids: frozenset[int] = engine.eos_ids

    @property
    def capacity(self) -> Capacity:
        """How much it holds."""
        return self._engine.capacity

    @property
    def has_work(self) -> bool:
        """Whether a further step can finish anything."""
        return bool(self._open) or self._engine.has_work

    @property
    def row_steps(self) -> int:
        """Tokens sampled so far; those of places, which are dropped, included."""
        return self._engine.row_steps

    @property
    def running(self) -> int:
        """Attempts that are being computed."""
        return self._engine.running

    @property
    def waiting(self) -> int:
        """Attempts that do not run yet."""
        return self._engine.waiting + len(self._queue)

    @property
    def preemptions(self) -> int:
        """Attempts sent back because no page was left."""
        return self._engine.preemptions

    @property
    def pages(self) -> tuple[int, int]:
        """KV pages in use, and in all."""
        return self._engine.pages

    def add(self, request: Request) -> None:
        """Queue an attempt. One whose labels do not all fit is drawn under its mask instead of being scored.

        One whose tokens the model does not know fails where it is scored, with the reason.

        Raises:
            PromptTooLong: the prompt leaves no room for a single new token.
            TokenUnknown: it is not scored, and holds a token that the model has no embedding for.
        """
        choices = request.choices
        room = min(request.max_new_tokens, self.capacity.context - len(request.prompt_token_ids))
        if choices is None or request.answer_token_ids or room <= choices.longest:
            self._engine.add(request)
            return
        choice = _Choice(request, choices, choices.attempts(self._along))
        self._open[request.key] = choice
        self._queue.append(choice)

    def cancel(self, keys: Collection[int]) -> None:
        """Drop the attempts with these keys."""
        self._engine.cancel([*keys, *(made for key in keys if key in self._open for made in self._close(key))])

    def insert(self, keys: Collection[int]) -> None:
        """Let the insertions of these attempts begin; those that are scored have none."""
        self._engine.insert(keys)

    def step(self) -> list[Finished]:
        """Run one step and return the attempts that it ended."""
        ended = self._feed()
        for finished in self._engine.step():
            if finished.key >= 0:
                ended.append(finished)
            elif finished.key in self._row_of:  # else its row has failed by another place
                ended += self._take(finished)
        return ended

    def _feed(self) -> list[Finished]:
        """Give places to the engine beneath while it has slots for them; return the rows that it refuses."""
        refused: list[Finished] = []
        while self._queue and self._engine.waiting < self.capacity.rows:
            choice = self._queue[0]
            key = choice.request.key
            place, along = next(choice.rest, (None, 0))
            if place is None or self._open.get(key) is not choice:
                self._queue.popleft()
                continue
            made = next(self._keys)
            try:
                self._engine.add(_attempt(choice, made, place, along))
            except EndmarkError as error:
                self._engine.cancel(self._close(key))
                said = f"{error}: {error.hint}" if error.hint else str(error)
                refused.append(_failed(choice.request, Verdict(FinishReason.ERROR, error=said)))
            else:
                choice.keys[made] = place, along
                self._row_of[made] = key
        return refused

    def _take(self, finished: Finished) -> list[Finished]:
        """Take what was found at one place; return the row if that was the last, or failed."""
        key = self._row_of[finished.key]
        choice = self._open[key]
        place, along = choice.keys.pop(finished.key)
        del self._row_of[finished.key]
        failed = finished.verdict.finish_reason is FinishReason.ERROR
        if not failed:
            _see(choice, place, along, finished)
        if not failed and len(choice.found) < len(choice.choices.places):
            return []
        self._engine.cancel(self._close(key))
        return [_failed(choice.request, finished.verdict) if failed else _chosen(choice)]

    def _close(self, key: int) -> list[int]:
        """Forget a row; return the keys of its attempts that have not ended."""
        made = list(self._open.pop(key).keys)
        for item in made:
            del self._row_of[item]
        return made


def _attempt(choice: _Choice, key: int, place: _Place, along: int) -> Request:
    """Return the attempt that scores tokens behind a place: greedy, so its token is what the model prefers.

    Args:
        along: how many places right before it are scored with it.
    """
    request, places = choice.request, choice.choices.places
    return Request(
        key=key,
        prompt_token_ids=(*request.prompt_token_ids, *place),
        max_new_tokens=1,
        sampling=Sampling(),
        stream=request.stream,
        adapter=request.adapter,
        asked=places[place],
        asked_before=[places[place[:at]] for at in range(len(place) - along, len(place))],
    )


def _see(choice: _Choice, place: _Place, along: int, finished: Finished) -> None:
    """Note what an attempt has found at its place, and at those along the way to it."""
    ends = finished.verdict.finish_reason is FinishReason.EOS
    trace = finished.trace
    cached = min(finished.cached_tokens, len(choice.request.prompt_token_ids))
    choice.found[place] = _Seen(finished.asked, trace.prob_max or 0.0, cached, trace.rank_max, ends)
    count = len(choice.choices.eos_ids)  # which are the first that are asked about at each place
    for at, log_probs in enumerate(finished.asked_before, len(place) - along):
        choice.found[place[:at]] = _Seen(log_probs, sum(map(math.exp, log_probs[:count])), cached)


def _chosen(choice: _Choice) -> Finished:
    """Return a row all of whose places are scored: its answer is the most probable label, of equal ones the first.

    Its end is the model's own if the model would have ended there by itself, else it was put there.
    """
    request, choices = choice.request, choice.choices
    try:
        probs = choices.probabilities({place: item.log_probs for place, item in choice.found.items()})
    except ValueError as error:
        return _failed(request, Verdict(FinishReason.ERROR, error=str(error)))
    best = max(range(len(probs)), key=probs.__getitem__)
    tokens = choices.token_ids[best]
    on_the_way = [choice.found[tokens[:at]] for at in range(len(tokens) + 1)]
    at = max(range(len(on_the_way)), key=lambda step: on_the_way[step].eos_prob)
    return Finished(
        key=request.key,
        token_ids=tokens,
        text=choices.labels[best],
        verdict=Verdict(FinishReason.EOS, EosSource.NATURAL if on_the_way[-1].ends else EosSource.FORCED),
        prompt_tokens=len(request.prompt_token_ids),
        completion_tokens=len(tokens),
        trace=EosTrace(
            prob_max=on_the_way[at].eos_prob,
            step_max=at,
            rank_max=on_the_way[at].eos_rank,
            probs=tuple(item.eos_prob for item in on_the_way) if request.trace else None,
        ),
        cached_tokens=on_the_way[0].cached_tokens,
        choice_probs=dict(zip(choices.labels, probs, strict=True)),
    )


def _failed(request: Request, verdict: Verdict) -> Finished:
    """Return a row that could not be scored."""
    return Finished(
        key=request.key,
        token_ids=(),
        text="",
        verdict=verdict,
        prompt_tokens=len(request.prompt_token_ids),
        completion_tokens=0,
        trace=EosTrace(),
    )
