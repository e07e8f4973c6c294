"""How one answer ends: its tokens as they come, its watchers, verdict and trace; for any engine."""

import math
from collections.abc import Sequence
from dataclasses import replace

from endmark.jobs.landing import START, advance
from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies.base import EndHere, TakeBack
from endmark.jobs.vocabulary import NOT_NUMBERS, EosSource, EosTrace, FinishReason, Verdict
from endmark.worker.engine.flags import FORCED, HIDDEN, INSERTED, NATURAL, UNTOLD
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.steering import PhaseEnd
from endmark.worker.engine.text import AnswerText, Vocabulary


class Answer:
    """A request's answer as it grows. It is told each token once, in order, until `see` returns its end.

    Args:
        request: the attempt.
        vocabulary: of the model's tokeniser.
        budget: new tokens, the end token included.
    """

    def __init__(self, request: Request, vocabulary: Vocabulary, budget: int) -> None:
        self.request = request
        self.budget = budget
        self.token_ids = list(request.answer_token_ids)  # of the whole answer, earlier attempts included
        self._vocabulary = vocabulary
        self._before = len(request.answer_token_ids)
        self.sampling = request.sampling  # as it is now; a row that was taken back draws otherwise
        self.rewinds = self.rewound_tokens = 0
        self.taken_back = False  # whether the last token had the row taken back; for the engine to clear
        self._watchers = [watcher for item in request.strategies if (watcher := item.watcher())]
        self._text = AnswerText(vocabulary, request.answer_token_ids) if self._watchers else None
        self.phase_open = request.phase is not None and not self._ends_of_phase(self.token_ids)
        # that may still come, or goes on; None once the phase has ended without it
        self.insertion = request.insertion if self.phase_open or request.phase is None else None
        self._phase_end: PhaseEnd | None = None
        self.mask = request.mask(self.token_ids) if request.mask is not None else None
        self._prob_max, self._step_max, self._rank_max = -1.0, 0, 0
        self._hidden_steps = 0
        self._probs: list[float] = []

    @property
    def generated(self) -> int:
        """Tokens of this attempt that have been seen, the end token not counted."""
        return len(self.token_ids) - self._before

    def landing_state(self) -> int:
        """Return the state of the text in the automaton of landing spots, which begins anew behind a phase."""
        ends = [] if self.phase_open else self._ends_of_phase(self.token_ids)
        begin = ends[0] + 1 if ends else 0
        return advance(START, b"".join(map(self._vocabulary.bytes_of, self.token_ids[begin:])))

    def insert(self, step: int) -> bool:
        """Let the insertion begin with the attempt's token `step`; return whether the device is to be told."""
        if self.insertion is None or self.insertion.covers(step):
            return False
        self.insertion = replace(self.insertion, at=step)
        return True

    def blocked(self) -> Finished | None:
        """Return the attempt as failed if its mask lets no token follow."""
        if self.mask is None or self.mask.words().any():
            return None
        return self._finished(Verdict(FinishReason.ERROR, error="the shape of the answer lets no token follow"))

    def _ends_of_phase(self, token_ids: Sequence[int]) -> list[int]:
        """Return where the end ids of the request's phase stand."""
        phase = self.request.phase
        return [index for index, token_id in enumerate(token_ids) if phase and token_id in phase.end_ids]

    def _steer(self, token_id: int, step: int, flags: int) -> None:
        """Follow what the device has done by itself: begun the insertion, ended the phase."""
        insertion = self.insertion
        if flags & INSERTED and insertion is not None and not insertion.covers(step):
            self.insertion = insertion = replace(insertion, at=step)
        if not self.phase_open or self.request.phase is None or token_id not in self.request.phase.end_ids:
            return
        self.phase_open = False
        self._phase_end = PhaseEnd(len(self.token_ids), _source(flags))
        if insertion is not None and not insertion.covers(step):
            self.insertion = None

    def see(self, token_id: int, eos_prob: float, eos_rank: int, flags: int, *, is_eos: bool) -> Finished | None:
        """Take the next token; return the finished attempt if it ends the row."""
        step = self.generated
        if math.isnan(eos_prob):
            return self._finished(Verdict(FinishReason.ERROR, error=f"{NOT_NUMBERS} (NaN) at token {step + 1}"))
        if eos_prob > self._prob_max:
            self._prob_max, self._step_max, self._rank_max = eos_prob, step, eos_rank
        if flags & HIDDEN:
            self._hidden_steps += 1
        if self.request.trace:
            self._probs.append(eos_prob)
        spent = step + 1 >= self.budget
        if not is_eos:
            self.token_ids.append(token_id)
            if self.mask is not None:
                self.mask.see(token_id)
            if self.insertion is not None or self.phase_open:
                self._steer(token_id, step, flags)
        natural = bool(flags & NATURAL)
        ending = self._watch(token_id, is_eos=is_eos, natural=natural, last=is_eos or spent)
        if isinstance(ending, TakeBack):
            self._take_back(ending)
            return None
        if ending is not None:
            return self._cut(ending)
        if is_eos:
            return self._finished(Verdict(FinishReason.EOS, eos_source=_source(flags)))
        return self._finished(Verdict(FinishReason.LENGTH)) if spent else None

    def _watch(self, token_id: int, *, is_eos: bool, natural: bool, last: bool) -> EndHere | TakeBack | None:
        """Show the new token to the watchers; return the earliest of their endings, or where to go on from.

        A row that the model has ended by itself is not taken back, unless it was taken back before: it has not
        found its end by itself then.
        """
        text = self._text
        if text is None:
            return None
        if is_eos:
            text.end_token_id, text.ended_naturally = token_id, natural
        else:
            text.append(token_id)
        said = [ending for item in self._watchers if (ending := item.see(text, last=last))]
        back = [item for item in said if isinstance(item, TakeBack)]
        if back and (not text.ended_naturally or self.rewinds):
            return min(back, key=lambda item: item.token_count)
        if len(said) == len(back):
            return None
        if not last:
            # The row ends here, so a watcher that was waiting for more must decide now.
            said = [ending for item in self._watchers if (ending := item.see(text, last=True))]
        return min((item for item in said if isinstance(item, EndHere)), key=lambda ending: ending.text_length)

    def _take_back(self, place: TakeBack) -> None:
        """Forget this attempt's tokens behind a place; the next ones are drawn so that they hardly repeat any."""
        kept = max(place.token_count, self._before)
        self.rewinds += 1
        self.rewound_tokens += len(self.token_ids) - kept
        del self.token_ids[kept:]
        del self._probs[self.generated :]
        self.sampling = _livened(self.request.sampling, place)
        asked = place.then
        fresh = (item.watcher() for item in self.request.strategies)
        self._watchers = [asked if type(item) is type(asked) else item for item in fresh if item is not None]
        self._text = AnswerText(self._vocabulary, self.token_ids)
        self.taken_back = True
        self.mask = self.request.mask(self.token_ids) if self.request.mask is not None else None
        if self.request.phase is not None and not self._ends_of_phase(self.token_ids):
            self.phase_open, self._phase_end = True, None
        if self.insertion is None or self.insertion.at >= self.generated:
            self.insertion = self.request.insertion if self.phase_open or self.request.phase is None else None

    def _cut(self, ending: EndHere) -> Finished:
        """Finish where a watcher says, with no more than it keeps."""
        assert self._text is not None
        return self._finished(
            ending.verdict,
            text=self._text.text[: ending.text_length],
            token_ids=self._text.token_ids[: ending.token_count],
        )

    def _finished(self, verdict: Verdict, text: str | None = None, token_ids: list[int] | None = None) -> Finished:
        """Return the attempt as it stands, under this verdict."""
        seen = self._prob_max >= 0.0
        if token_ids is None:
            token_ids = self.token_ids
        if text is None:
            text = self._vocabulary.text_of(token_ids)
        may_trim = verdict.finish_reason.has_answer and not verdict.end.by_itself
        trims = may_trim and any(item.trims for item in self.request.strategies)
        return Finished(
            key=self.request.key,
            token_ids=tuple(token_ids),
            text=text,
            verdict=verdict,
            prompt_tokens=len(self.request.prompt_token_ids),
            completion_tokens=max(0, len(token_ids) - self._before),
            trace=EosTrace(
                prob_max=self._prob_max if seen else None,
                step_max=self._step_max if seen else None,
                rank_max=self._rank_max if seen else None,
                hidden_steps=self._hidden_steps,
                probs=tuple(self._probs) if self.request.trace else None,
            ),
            lengths=tuple(AnswerText(self._vocabulary, token_ids).lengths) if trims else (),
            rewinds=self.rewinds,
            rewound_tokens=self.rewound_tokens,
            phase_end=self._phase_end,
        )


def _livened(sampling: Sampling, place: TakeBack) -> Sampling:
    """Return how a row draws that was taken back: no colder than said there, repeating no more."""
    return replace(
        sampling,
        temperature=max(sampling.temperature, place.temperature),
        dry_multiplier=max(sampling.dry_multiplier, place.dry_multiplier),
    )


def _source(flags: int) -> EosSource:
    """Return whose end it was."""
    if flags & UNTOLD:
        return EosSource.UNKNOWN
    if flags & NATURAL:
        return EosSource.NATURAL
    return EosSource.FORCED if flags & FORCED else EosSource.BOOSTED
