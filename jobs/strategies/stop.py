r"""`stop`: strings and token sequences that end a row.

A stop string is looked for in the decoded answer, never in the prompt, so where its bytes fall in the tokens
does not matter: it may begin in the middle of one token and end in the middle of another.
"""

from jobs.errors import SpecError
from jobs.strategies.base import Ending, Parameter, Place, Strategy, TextSoFar, Watcher
from jobs.vocabulary import FinishReason, Verdict


class Stop(Strategy):
    """Ends a row at the earliest stop string or token sequence; the text is cut before it."""

    name = "stop"
    place = Place.TOKEN
    summary = "ends the row where a given string or token sequence appears; the text is cut before it"
    why = "when the answer's end can be told by a marker, such as a blank line or `###`"
    declared = (
        Parameter("text", (), "a string to stop at; may be given several times"),
        Parameter("tokens", (), "token ids to stop at, joined by spaces or `-`; may be given several times"),
    )

    def validate(self) -> None:
        """Check that there is something to stop at, and that token ids are ids."""
        if not self.strings("text") and not self.strings("tokens"):
            raise SpecError("strategy `stop` needs something to stop at", hint='for example stop:text="\\n\\n"')
        if not all(self.strings("text")):
            raise SpecError("strategy `stop`: `text` is empty")
        self.sequences = tuple(_token_sequence(text) for text in self.strings("tokens"))

    def watcher(self) -> Watcher:
        """Return the watcher of one row."""
        return StopWatcher(self.strings("text"), self.sequences)


def _token_sequence(text: str) -> tuple[int, ...]:
    """Read token ids joined by spaces or dashes."""
    words = text.replace("-", " ").split()
    if not words or not all(word.isdecimal() for word in words):
        raise SpecError(
            f"strategy `stop`: `tokens={text}` is not a sequence of token ids", hint="stop:tokens=13-13"
        )
    return tuple(int(word) for word in words)


class StopWatcher:
    """Looks for the stop strings in the new text only, plus what a match could have begun before it."""

    def __init__(self, texts: tuple[str, ...], sequences: tuple[tuple[int, ...], ...]) -> None:
        self._texts = texts
        self._sequences = sequences
        self._overlap = max((len(text) for text in texts), default=1) - 1
        self._searched = 0  # characters of the answer already searched
        self._lengths = [0]  # characters of the answer after each token

    def see(self, answer: TextSoFar, *, last: bool) -> Ending | None:
        """Return an ending at the earliest match in the answer."""
        del last
        self._lengths.append(len(answer.text))
        found = self._find_text(answer.text) or self._find_sequence(answer)
        self._searched = len(answer.text)
        if found is None:
            return None
        position, matched = found
        kept = next(count for count, length in enumerate(self._lengths) if length >= position)
        return Ending(Verdict(FinishReason.STOP_SEQUENCE, stop_sequence=matched), position, kept)

    def _find_text(self, text: str) -> tuple[int, str] | None:
        """Return where the earliest stop string begins, and which it is; the longest of equals."""
        begin = max(0, self._searched - self._overlap)
        found = [(at, -len(stop), stop) for stop in self._texts if (at := text.find(stop, begin)) >= 0]
        if not found:
            return None
        position, _, matched = min(found)
        return position, matched

    def _find_sequence(self, answer: TextSoFar) -> tuple[int, str] | None:
        """Return where the token sequence begins that the new token completes."""
        for sequence in self._sequences:
            count = len(sequence)
            if tuple(answer.token_ids[-count:]) == sequence:
                before = len(self._lengths) - 1 - count
                return self._lengths[before], "-".join(map(str, sequence))
        return None
