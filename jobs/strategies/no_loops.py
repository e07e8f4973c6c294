"""`no-loops`: ends a row that repeats itself."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from endmark.jobs.endings.loops import loop_of
from endmark.jobs.endings.returning import Loop
from endmark.jobs.sentences import ends_sentence
from endmark.jobs.strategies.base import EndHere, Parameter, Place, Strategy, TextSoFar, Watcher
from endmark.jobs.vocabulary import FinishReason, Verdict

_GRAM = 8  # tokens whose return suggests a period
_TOKEN_BITS = 32
_NEAR_EVERY = 64  # tokens after which the text is looked through for near copies
_NEAR_REACH = 6000  # characters at its end that are
_GRAM_MASK = (1 << _GRAM * _TOKEN_BITS) - 1


class NoLoops(Strategy):
    """Ends a row whose last tokens are copies of one stretch; keeps the text up to the end of the first copy.

    A sentence that is open there stays whole. Copies stand one right behind the other; with `near` their numbers,
    case and single words may differ. Lists, tables and refrains with something new in each round go on.
    """

    name = "no-loops"
    place = Place.TOKEN
    summary = "ends a row that repeats itself; the text is kept up to the end of the first copy"
    why = "for models that fall into loops, most of all at temperature 0; saves the rest of the budget"
    declared = (
        Parameter("times", 4, "how often a stretch must stand in a row", 2, 1000),
        Parameter("tokens", 64, "how many tokens the copies must span together", 2 * _GRAM, 2**20),
        Parameter("near", True, "whether copies may differ in numbers, case and single words"),
    )

    def watcher(self) -> Watcher:
        """Return the watcher of one row."""
        near = bool(self.parameters["near"])
        return LoopWatcher(int(self.number("times")), int(self.number("tokens")), near=near)

    def thought_watcher(self) -> Watcher:
        """Return the same of its thought."""
        return self.watcher()


class LoopWatcher:
    """Follows every period that the last tokens have: for each, how many tokens equal the one a period before.

    A period is first suspected when the last `_GRAM` tokens have stood before, and dropped at the first token
    that breaks it, so that a token costs one look-up and one comparison for each live period, seldom over two.
    Near copies are looked for in the text, every so many tokens. Nothing is looked at before there are as many
    tokens as copies must span.
    """

    def __init__(self, times: int, tokens: int, *, near: bool) -> None:
        self._times = times
        self._tokens = tokens
        self._near_at = max(tokens, _NEAR_EVERY) if near else None  # tokens at the next look for near copies
        self._found: EndHere | None = None
        self._seen = 0
        self._gram = 0  # the last _GRAM tokens as one number, which is made and looked up faster than a tuple
        self._last_at: dict[int, int] = {}  # where each stretch of _GRAM tokens last ended
        self._runs: dict[int, int] = {}  # tokens that equal the one a period before them, by period

    def see(self, answer: TextSoFar, *, last: bool) -> EndHere | None:
        """Return an ending if the new token completes the copies that it takes."""
        del last
        count = len(answer.token_ids)
        if self._found is None and count >= self._tokens:
            self._found = self._look(answer, count)
        return self._found

    def _look(self, answer: TextSoFar, count: int) -> EndHere | None:
        """Return the ending that the tokens up to `count` bring."""
        while self._seen < count:
            self._take(answer.token_ids, self._seen)
            self._seen += 1
        for period, run in sorted(self._runs.items()) if self._runs else ():
            if run >= (self._times - 1) * period and run + period >= self._tokens:
                return _cut(answer, self._seen - run, period)
        if self._near_at is None or count < self._near_at:
            return None
        self._near_at = count + _NEAR_EVERY
        return near_loop(answer, lambda text: loop_of(text, self._times, self._tokens))

    def _take(self, tokens: Sequence[int], at: int) -> None:
        """Update the runs with the token at `at`."""
        token = tokens[at]
        if self._runs:
            self._runs = {period: run + 1 for period, run in self._runs.items() if tokens[at - period] == token}
        gram = self._gram = (self._gram << _TOKEN_BITS | token) & _GRAM_MASK
        if at + 1 < _GRAM:
            return
        before = self._last_at.get(gram)
        self._last_at[gram] = at
        if before is None or at - before in self._runs:
            return
        period, run = at - before, _GRAM
        while run + period <= at and tokens[at - run] == tokens[at - run - period]:
            run += 1
        self._runs[period] = run


def near_loop(answer: TextSoFar, find: Callable[[str], Loop | None]) -> EndHere | None:
    """Return an ending behind the first copy if the end of the text is found to repeat itself."""
    begin = max(0, len(answer.text) - _NEAR_REACH)
    loop = find(answer.text[begin:])
    return None if loop is None else behind_first_copy(answer, Loop(begin + loop.start, begin + loop.kept))


def behind_first_copy(answer: TextSoFar, loop: Loop) -> EndHere:
    """Return an ending behind the first copy of a loop, the sentence that is open there being completed."""
    size = len(answer.token_ids)
    start, kept = (bisect_left(answer.lengths, place) + 1 for place in (loop.start, loop.kept))
    return _cut(answer, min(kept, size), max(1, min(kept - start, size - kept)))


def _cut(answer: TextSoFar, kept: int, period: int) -> EndHere:
    """End behind the first copy, or where the sentence that is open there ends within the second."""
    lengths = answer.lengths
    whole = (count for count in range(kept, kept + period) if ends_sentence(answer.text[: lengths[count - 1]]))
    count = next(whole, kept)
    return EndHere(Verdict(FinishReason.REPETITION), lengths[count - 1], count)
