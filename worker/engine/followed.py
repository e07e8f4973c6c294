"""How one answer stands to what steers it, as the host follows it: the same as the device does by itself."""

from dataclasses import replace

from endmark.jobs.vocabulary import EosSource
from endmark.worker.engine.flags import FORCED, INSERTED, NATURAL, UNTOLD
from endmark.worker.engine.request import Request
from endmark.worker.engine.steering import OPENED_LATE, Insertion, Phase, PhaseEnd
from endmark.worker.engine.thought import ThoughtSoFar


class FollowedSteering:
    """A request's phase and insertion while its answer grows.

    Args:
        request: the attempt.
        token_ids: of earlier attempts.
        thought: how they stand to the model's thoughts; None for a model without any.

    Attributes:
        phase: the request's; one that has opened late no longer names what opens it.
        phase_open: whether the answer is in its phase.
        phase_undecided: whether its next token says so.
        phase_end: where this attempt has ended it.
        matched: tokens of its end that the answer ends with, while it is open.
        insertion: that may come, or goes on; None once its phase has ended without it.
        origin: the attempt's token from which the numbers of its strategies count.
    """

    def __init__(self, request: Request, token_ids: list[int], thought: ThoughtSoFar | None = None) -> None:
        self._request, self.phase = request, request.phase
        self._left = thought.first_end if thought is not None else None  # behind the mark, whatever its tokens
        self.phase_open = self.phase_undecided = False
        self.phase_end: PhaseEnd | None = None
        self.matched = 0
        self._raised = False  # whether the first token of its end that has come was raised
        self.insertion: Insertion | None = None
        self.origin = 0
        self.enter(token_ids, 0)
        if thought is not None and thought.is_first:
            self._reopen(token_ids, 0)

    def see(self, thought: ThoughtSoFar, token_ids: list[int], generated: int) -> bool:
        """Follow a thought that has just opened or closed; return whether the device is to take the row up anew.

        Args:
            thought: as it stands now.
            token_ids: of the answer.
            generated: how many of them are of this attempt.
        """
        if thought.is_open:
            return thought.is_first and self._reopen(token_ids, generated)
        return self._leave(len(token_ids), generated)

    def enter(self, token_ids: list[int], generated: int) -> None:
        """Stand as an answer does that has come to these tokens, the last of them generated in this attempt."""
        phase, going = self.phase, self.insertion
        self.phase_open = self._at(token_ids)[0]
        opens_with = phase.opens_with if phase is not None else None
        self.phase_undecided = opens_with is not None and opens_with != OPENED_LATE and not token_ids
        self.matched = phase.matched(token_ids) if phase is not None and self.phase_open else 0
        self._raised = self._raised and self.matched > 0
        may_come = phase is None or self.phase_open or self.phase_undecided
        self.insertion = self._request.insertion if may_come else None
        if going is not None and going.at < generated:
            self.insertion = going
        if self.phase_open or self.phase_undecided:
            self.phase_end, self.origin = None, 0

    def begin(self, token_ids: list[int]) -> int:
        """Return how many tokens stand before the present part of an answer, as the device counts it."""
        return self._at(token_ids)[1]

    def _leave(self, count: int, generated: int) -> bool:
        """End the phase where its mark has come in other tokens; return whether it was open until then.

        Tokenisers of Llama 3's kind merge the end of `</think>` with the line ends behind it; the device waits for
        the mark's own tokens.
        """
        if self.phase is None or not self.phase_open:
            return False
        self._left, self.phase_open, self.matched, self._raised = count, False, 0, False
        self.insertion = None
        self.origin = generated if self.phase.restarts else 0
        self.phase_end = PhaseEnd(count, EosSource.NATURAL)
        return True

    def _at(self, token_ids: list[int]) -> tuple[bool, int]:
        """Return whether an answer that begins so is in the phase, and where its present part begins."""
        if self.phase is None:
            return False, 0
        is_open, begin = self.phase.at(token_ids)
        if is_open and self._left is not None and len(token_ids) >= self._left:
            return False, self._left
        return is_open, begin

    def _reopen(self, token_ids: list[int], generated: int) -> bool:
        """Open the phase late, where its first token was another; return whether that opens it.

        An insertion that was to begin before begins with the next token.
        """
        if self.phase is None or self.phase_open or self.phase_undecided:
            return False
        phase = replace(self.phase, opens_with=None)
        if not phase.at(token_ids)[0]:
            return False
        self.phase = phase
        self.enter(token_ids, generated)
        if self.insertion is not None:
            self.insertion = replace(self.insertion, at=max(self.insertion.at, generated))
        return True

    def call(self, step: int) -> bool:
        """Let the insertion begin with the attempt's token `step`; return whether the device is to be told."""
        if self.insertion is None or self.insertion.covers(step):
            return False
        self.insertion = replace(self.insertion, at=step)
        return True

    def put_in(self, step: int) -> None:
        """Let the request's insertion begin with the attempt's token `step`, also behind the phase."""
        insertion = self._request.insertion
        self.insertion = replace(insertion, at=step) if insertion is not None else None

    def take(self, token_id: int, count: int, step: int, flags: int) -> bool:
        """Follow what the device has done by itself with a token; return whether that has ended the phase.

        Args:
            token_id: the answer's newest.
            count: tokens of the answer, this one included.
            step: the attempt's token, from 0.
            flags: of the token.
        """
        insertion, phase = self.insertion, self.phase
        if flags & INSERTED and insertion is not None and not insertion.covers(step):
            self.insertion = insertion = replace(insertion, at=step)
        if phase is None or not (self.phase_open or self.phase_undecided):
            return False
        if self.phase_undecided:
            self.phase_undecided, self.phase_open = False, token_id == phase.opens_with
        else:
            self._follow_end(phase, token_id, count, step, flags)
        insertion = self.insertion
        if not self.phase_open and insertion is not None and not insertion.covers(step):
            self.insertion = None
        return self.phase_end is not None and self.phase_end.tokens == count

    def _follow_end(self, phase: Phase, token_id: int, count: int, step: int, flags: int) -> None:
        """Follow a token of an open phase, which may be one of its end's; the arguments are those of `take`."""
        self.matched = phase.follow(self.matched, token_id)
        if self.matched == phase.length:
            self.phase_open = False
            self.origin = step + 1 if phase.restarts else 0
            self.phase_end = PhaseEnd(count, self._source(phase, flags))
        elif self.matched == 1 and not flags & (NATURAL | INSERTED) and self.insertion is not None:
            self.insertion, self._raised = self.insertion.from_mark(phase, step), True
        elif not self.matched:
            self._raised = False

    def _source(self, phase: Phase, flags: int) -> EosSource:
        """Return who has ended the phase, from the flags of the last token."""
        if not phase.mark:
            return source_of(flags)
        if self._raised:
            return EosSource.BOOSTED
        return EosSource.FORCED if flags & INSERTED else EosSource.NATURAL


def source_of(flags: int) -> EosSource:
    """Return whose end it was, of an answer or a phase."""
    if flags & UNTOLD:
        return EosSource.UNKNOWN
    if flags & NATURAL:
        return EosSource.NATURAL
    return EosSource.FORCED if flags & FORCED else EosSource.BOOSTED
