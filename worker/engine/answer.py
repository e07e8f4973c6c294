"""How one answer ends: its tokens as they come, its watchers, verdict and trace; for any engine."""

import math
from dataclasses import replace

from endmark.jobs.landing import START, advance
from endmark.jobs.strategies.base import EndHere, TakeBack, Watcher
from endmark.jobs.vocabulary import NOT_NUMBERS, EosSource, FinishReason, Verdict
from endmark.worker.engine.eos_record import EosRecord
from endmark.worker.engine.flags import INSERTED, NATURAL
from endmark.worker.engine.followed import FollowedSteering, source_of
from endmark.worker.engine.masks import FreeMask, OpeningMask, TokenMask
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.text import AnswerText, Vocabulary
from endmark.worker.engine.thought import Parted, ThoughtSoFar


class Answer:
    """A request's answer as it grows. It is told each token once, in order, until `see` returns its end.

    Args:
        request: the attempt.
        vocabulary: of the model's tokeniser.
        budget: new tokens, the end token included.
    """

    def __init__(self, request: Request, vocabulary: Vocabulary, budget: int) -> None:
        self.request = request
        self.whole_budget = budget
        self.token_ids = list(request.answer_token_ids)  # of the whole answer, earlier attempts included
        self.vocabulary = vocabulary
        self._before = len(request.answer_token_ids)
        self.sampling = request.sampling  # as it is now; a row that was taken back draws otherwise
        self.rewinds = self.rewound_tokens = 0
        self.taken_back = False  # whether the last token had the row taken back; for the engine to clear
        self._thought = self._thought_so_far()
        self._reasoned_before = self._reasoned()
        self._thought_closed: EosSource | None = None
        self.closes_thought = False  # whether the row's insertion is to begin; for the engine to clear
        self._thought_called = False  # whether it was called for in the present part
        self._watchers = self._fresh_watchers()
        self._text = self._view()
        self.budget = self._present_budget()  # new tokens, the end token included, as far as it is known
        self.steering = FollowedSteering(request, self.token_ids, self._thought)
        self.mask = self._fresh_mask()
        self._eos = EosRecord(curve=request.trace)

    @property
    def generated(self) -> int:
        """Tokens of this attempt that have been seen, the end token not counted."""
        return len(self.token_ids) - self._before

    def landing_state(self) -> int:
        """Return the state of the text in the automaton of landing spots, which begins anew behind a phase."""
        begin = self.steering.begin(self.token_ids)
        return advance(START, b"".join(map(self.vocabulary.bytes_of, self.token_ids[begin:])))

    def blocked(self) -> Finished | None:
        """Return the attempt as failed if its mask lets no token follow; to be asked behind `retreat`."""
        if self.mask is None or not self.mask.refusal:
            return None
        return self._finished(Verdict(FinishReason.ERROR, error=self.mask.refusal))

    def retreat(self) -> bool:
        """Take back the tokens that the mask gives back; return whether there are any."""
        if self.mask is None:
            return False
        self.mask.words()  # which waits for it
        if self.mask.refusal or not self.mask.surplus:
            return False
        kept = len(self.token_ids) - self.mask.surplus
        self.mask.give_back()
        self._forget(kept)
        return True

    def _fresh_mask(self) -> TokenMask | None:
        """Return the mask of the answer as it stands: inside a thought everything may follow."""
        if self.request.mask is None:
            return None
        if self._is_thinking:
            return FreeMask(len(self.vocabulary.token_bytes))
        phase = self.request.phase
        begin = phase.at(self.token_ids)[1] if phase is not None and self._thought is None else self._first
        mask = self.request.mask(self.token_ids[begin:], self.budget - self.generated)
        if self.steering.phase_undecided and phase is not None and phase.opens_with is not None:
            return OpeningMask(mask, phase.opens_with)
        return mask

    @property
    def _is_thinking(self) -> bool:
        """Whether the answer has not begun, as its phase or a thought is open."""
        return self.steering.phase_open or self._in_thought

    def _fresh_watchers(self) -> list[Watcher]:
        """Return watchers of the strategies for the present part, which have seen nothing."""
        made = (item.thought_watcher() if self._in_thought else item.watcher() for item in self.request.strategies)
        return [watcher for watcher in made if watcher is not None]

    @property
    def _in_thought(self) -> bool:
        """Whether the answer is inside a thought."""
        return self._thought is not None and self._thought.is_open

    def _present_budget(self) -> int:
        """Return the new tokens that the attempt may have if no further thought opens or closes."""
        own = self.request.answer_budget
        if own is None or self._in_thought:
            return self.whole_budget
        return min(self.whole_budget, max(0, self._first - self._before) + own)

    def _thought_so_far(self) -> ThoughtSoFar | None:
        """Return how the tokens so far stand to the model's thoughts; None for a model without any."""
        thought = self.request.thought
        return ThoughtSoFar(thought, self.vocabulary, self.token_ids) if thought is not None else None

    def _view(self) -> AnswerText | None:
        """Return what watchers are shown: the text of the present part."""
        if not self._watchers:
            return None
        return self._thought.view() if self._thought else AnswerText(self.vocabulary, self.token_ids)

    def _take(self, token_id: int, step: int, flags: int) -> None:
        """Add the next token to the answer, and follow what it opens or closes."""
        self.token_ids.append(token_id)
        if self.mask is not None and self.mask.steady:
            self.mask = None  # it stays where it was sent to
        elif self.mask is not None:
            self.mask.see(token_id)
        was_thinking = self._is_thinking
        phase_ends = self.steering.take(token_id, len(self.token_ids), step, flags)
        if self._thought is not None and self._thought.see(token_id):
            if not self._thought.is_open:
                put = EosSource.FORCED if flags & INSERTED else EosSource.NATURAL
                end = self.steering.phase_end
                self._thought_closed = end.source if phase_ends and end is not None else put
            self._watchers = self._fresh_watchers()
            self._text = self._view()
            self.budget = self._present_budget()
            self._thought_called = False
            self.taken_back = self.steering.see(self._thought, self.token_ids, self.generated)
        elif self._text is not None:
            self._text.append(token_id)
        if self._in_thought and self.request.thought_budget is not None and not self.steering.phase_open:
            self._close_thought(when=self._reasoned() - self._reasoned_before >= self.request.thought_budget)
        if self._is_thinking is not was_thinking:
            self.mask = self._fresh_mask()

    def _reasoned(self) -> int:
        """Return how many of the tokens are thought."""
        return self._thought.reasoning_tokens(len(self.token_ids)) if self._thought is not None else 0

    def _close_thought(self, *, when: bool) -> None:
        """Let the row's insertion close its thought, if it is time and nobody has called for it before.

        Behind its phase the device has dropped the insertion: the row is taken up anew there.
        """
        if not when or self._thought_called:
            return
        if self.request.phase is None or self.steering.phase_open:
            self.closes_thought = self._thought_called = True
        else:
            self._close_here()

    def _close_here(self) -> None:
        """Take the row up anew behind its tokens, with its insertion as the next ones."""
        self._forget(len(self.token_ids))
        self.steering.put_in(self.generated)
        self._thought_called = True

    def see(self, token_id: int, eos_prob: float, eos_rank: int, flags: int, *, is_eos: bool) -> Finished | None:
        """Take the next token; return the finished attempt if it ends the row."""
        step = self.generated
        if math.isnan(eos_prob):
            return self._finished(Verdict(FinishReason.ERROR, error=f"{NOT_NUMBERS} (NaN) at token {step + 1}"))
        self._eos.see(step, eos_prob, eos_rank, flags)
        if is_eos and self._in_thought and self.request.eos_closes and step + 1 < self.budget:
            self._close_here()
            return None
        if not is_eos:
            self._take(token_id, step, flags)
        spent = step + 1 >= self.budget
        ending = self._watch(token_id, is_eos=is_eos, natural=bool(flags & NATURAL), last=is_eos or spent)
        if isinstance(ending, TakeBack):
            self._take_back(ending)
            return None
        if ending is not None:
            return self._cut(ending)
        if is_eos:
            closed = self.mask is not None and self.mask.closes
            source = EosSource.FORCED if closed else source_of(flags)
            ended = self._finished(Verdict(FinishReason.EOS, eos_source=source))
            return replace(ended, end_token_id=token_id)
        return self._finished(Verdict(FinishReason.LENGTH)) if spent else None

    def _watch(self, token_id: int, *, is_eos: bool, natural: bool, last: bool) -> EndHere | TakeBack | None:
        """Show the new token to the watchers; return the earliest of their endings, or where to go on from."""
        text = self._text
        if text is None:
            return None
        if is_eos:
            text.end_token_id, text.ended_naturally = token_id, natural
        said = [ending for item in self._watchers if (ending := item.see(text, last=last))]
        if not said:
            return None
        if self._in_thought:
            stops = [item for item in said if isinstance(item, EndHere) and not item.verdict.truncated]
            self._close_thought(when=len(stops) < len(said))  # a loop
            return min(stops, key=lambda ending: ending.text_length, default=None)
        back = [item for item in said if isinstance(item, TakeBack)]
        if back:
            return min(back, key=lambda item: item.token_count)
        if not last:
            # The row ends here, so a watcher that was waiting for more must decide now.
            said = [ending for item in self._watchers if (ending := item.see(text, last=True))]
        return min((item for item in said if isinstance(item, EndHere)), key=lambda ending: ending.text_length)

    def _take_back(self, place: TakeBack) -> None:
        """Forget this attempt's tokens behind a place; the next ones are drawn so that they hardly repeat any."""
        kept = max(self._first + place.token_count, self._before)
        self.rewinds += 1
        self.rewound_tokens += len(self.token_ids) - kept
        self._forget(kept)
        self.sampling = self.request.livened(place, len(self.token_ids))
        asked = place.then
        self._watchers = [asked if type(item) is type(asked) else item for item in self._fresh_watchers()]
        self.mask = self._fresh_mask()

    def _forget(self, kept: int) -> None:
        """Keep no more than the first tokens; watchers are as new, and the row goes on from there."""
        del self.token_ids[kept:]
        self._eos.forget(self.generated)
        self._thought = self._thought_so_far()
        self._watchers = self._fresh_watchers()
        self._text = self._view()
        self.taken_back = True
        self.steering.enter(self.token_ids, self.generated)
        self.budget = self._present_budget()

    def _cut(self, ending: EndHere) -> Finished:
        """Finish where a watcher says, with no more than it keeps."""
        assert self._text is not None
        return self._finished(
            ending.verdict,
            text=self._text.text[: ending.text_length],
            token_ids=self.token_ids[: self._first + ending.token_count],
        )

    @property
    def _first(self) -> int:
        """Tokens of the answer before those that watchers are shown."""
        return self._thought.begin if self._thought is not None else 0

    def _finished(self, verdict: Verdict, text: str | None = None, token_ids: list[int] | None = None) -> Finished:
        """Return the attempt as it stands, under this verdict.

        Args:
            verdict: how it ended.
            text: of the part that watchers were shown, where they have cut it.
            token_ids: of the whole answer, cut so.
        """
        if token_ids is None:
            token_ids = self.token_ids
        may_trim = verdict.finish_reason.has_answer and not verdict.end.by_itself
        trims = may_trim and any(item.trims for item in self.request.strategies)
        parts = self._parted(token_ids, text)
        return Finished(
            key=self.request.key,
            token_ids=tuple(token_ids),
            text=parts.text,
            verdict=verdict,
            prompt_tokens=len(self.request.prompt_token_ids),
            completion_tokens=max(0, len(token_ids) - self._before),
            trace=self._eos.trace(),
            lengths=self._lengths(token_ids, parts) if trims else (),
            rewinds=self.rewinds,
            rewound_tokens=self.rewound_tokens,
            phase_end=self.steering.phase_end,
            reasoning=parts.reasoning,
            reasoning_tokens=parts.reasoning_tokens,
            in_thought=parts.in_thought,
            thought_closed=self._thought_closed,
        )

    def _parted(self, token_ids: list[int], text: str | None) -> Parted:
        """Return the text of the answer and what goes with it; the arguments are those of `_finished`."""
        if self._thought is not None:
            return self._thought.parted(token_ids, text)
        return Parted(self.vocabulary.text_of(token_ids) if text is None else text)

    def _lengths(self, token_ids: list[int], parts: Parted) -> tuple[int, ...]:
        """Return the characters of the answer's text after each of its tokens, those of thoughts left out."""
        if parts.in_thought:
            return ()
        if self._thought is None:
            text = self._text or AnswerText(self.vocabulary, token_ids)
            return tuple(text.lengths[: len(token_ids)])
        found = (self._text or self._thought.view()).lengths[: len(token_ids) - self._first]
        return tuple(max(0, parts.shift + length) for length in found)
