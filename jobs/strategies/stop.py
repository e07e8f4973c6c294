r"""`stop`: strings and token sequences that end a row.

A stop string is looked for in the decoded answer, never in the prompt, so where its bytes fall in the tokens
does not matter: it may begin in the middle of one token and end in the middle of another.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from endmark.jobs.errors import SpecError
from endmark.jobs.strategies.base import SCOPE, EndHere, Parameter, Place, Strategy, TextSoFar, Watcher
from endmark.jobs.vocabulary import FinishReason, Verdict

_SEQUENCE = re.compile(r"\s*[0-9]+(?:(?:\s+|-)[0-9]+)*\s*")
_IDS = re.compile(r"[0-9]+")


class Stop(Strategy):
    """Ends a row at the earliest stop string or token sequence; the text is cut before it."""

    name = "stop"
    place = Place.TOKEN
    summary = "ends the row where a given string or token sequence appears; the text is cut before it"
    why = "when the answer's end can be told by a marker, such as a blank line or `###`"
    declared = (
        Parameter("text", (), "a string to stop at; may be given several times"),
        Parameter("tokens", (), "token ids to stop at, joined by spaces or `-`; may be given several times"),
        SCOPE,
    )

    def validate(self) -> None:
        """Check that there is something to stop at, and that token ids are ids."""
        if not self.strings("text") and not self.strings("tokens"):
            raise SpecError("strategy `stop` needs something to stop at", hint='for example stop:text="\\n\\n"')
        if not all(self.strings("text")):
            raise SpecError("strategy `stop`: `text` is empty")
        self.sequences = tuple(_token_sequence(text) for text in self.strings("tokens"))

    def watcher(self) -> Watcher | None:
        """Return the watcher of one row's answer, if it is to be looked at."""
        return StopWatcher(self.strings("text"), self.sequences) if self.sees_answer else None

    def thought_watcher(self) -> Watcher | None:
        """Return the watcher of its thought, if that is: a stop there ends the row."""
        return StopWatcher(self.strings("text"), self.sequences) if self.sees_thought else None


def _token_sequence(text: str) -> tuple[int, ...]:
    """Read token ids joined by spaces or dashes."""
    if not _SEQUENCE.fullmatch(text):
        raise SpecError(
            f"strategy `stop`: `tokens={text}` is not a sequence of token ids", hint="stop:tokens=13-13"
        )
    return tuple(map(int, _IDS.findall(text)))


@dataclass(frozen=True, slots=True, order=True)
class Match:
    """Where a stop was found. The earliest is the least; of two at one place, the one completed first."""

    position: int  # characters of the text before it
    end: int  # tokens of the answer with which it was complete
    size: int
    token_count: int  # tokens that hold the text before it
    stop: str


class StopWatcher:
    """Finds the earliest stop of the whole answer, however its text is cut into tokens.

    A match is held back while a longer stop that began before it may still be completed. Only new text is
    searched, plus what a match could have begun before it.
    """

    def __init__(self, texts: tuple[str, ...], sequences: tuple[tuple[int, ...], ...]) -> None:
        self._texts = texts
        self._sequences = sequences
        self._overlap = max((len(text) for text in texts), default=1) - 1
        self._searched = 0  # characters of the answer already searched
        self._seen = 0  # its tokens already seen, the end token counted
        self._best: Match | None = None

    def see(self, answer: TextSoFar, *, last: bool) -> EndHere | None:
        """Return an ending at the earliest stop, as soon as no earlier one can follow."""
        text = answer.text
        begin = max(0, self._searched - self._overlap)
        self._searched = len(text)
        found = []
        for stop in self._texts:
            position = text.find(stop, begin)
            if position >= 0:
                found.append(_match(answer, stop, position))
        if self._sequences:
            found += self._sequences_in(answer)
        if self._best is not None:
            found.append(self._best)
        if not found:
            return None
        best = self._best = min(found)
        if not last and self._may_begin_before(best, answer):
            return None
        verdict = Verdict(FinishReason.STOP_SEQUENCE, stop_sequence=best.stop)
        return EndHere(verdict, best.position, best.token_count)

    def _sequences_in(self, answer: TextSoFar) -> Iterator[Match]:
        """Return the token sequences that a new token completes, the end token among them."""
        tokens = _with_end(answer)
        begin, self._seen = self._seen, len(tokens)
        for end in range(begin + 1, len(tokens) + 1):
            for sequence in self._sequences:
                count = end - len(sequence)
                if count == len(answer.token_ids):
                    continue  # nothing but the end token: an EOS as any other
                if count >= 0 and tuple(tokens[count:end]) == sequence:
                    position = answer.lengths[count - 1] if count else 0
                    yield Match(position, end - 1, len(sequence), count, "-".join(map(str, sequence)))

    def _may_begin_before(self, match: Match, answer: TextSoFar) -> bool:
        """Whether the answer ends in the beginning of a stop that begins before the match."""
        text, tokens, lengths = answer.text, answer.token_ids, answer.lengths
        for begin in range(max(0, len(text) - self._overlap), match.position):
            if any(len(stop) > len(text) - begin and stop.startswith(text[begin:]) for stop in self._texts):
                return True
        longest = max(map(len, self._sequences), default=1)
        for begin in range(max(0, len(tokens) - longest + 1), len(tokens)):
            tail = tuple(tokens[begin:])
            if (lengths[begin - 1] if begin else 0) < match.position and any(
                len(sequence) > len(tail) and sequence[: len(tail)] == tail for sequence in self._sequences
            ):
                return True
        return False


def _match(answer: TextSoFar, stop: str, position: int) -> Match:
    """Return the match of a stop string that begins at a character."""
    end = bisect_left(answer.lengths, position + len(stop))
    count = bisect_left(answer.lengths, position) + 1 if position else 0
    return Match(position, end, len(stop), count, stop)


def _with_end(answer: TextSoFar) -> Sequence[int]:
    """Return the answer's tokens and the end token, if it has been sampled."""
    if answer.end_token_id is None:
        return answer.token_ids
    return [*answer.token_ids, answer.end_token_id]
