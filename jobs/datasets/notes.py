"""What is worth a word about a dataset that can be used: each kind once, counted, with its first line."""

from endmark.jobs.spelling import counted


class Notes:
    """The notes on one dataset, gathered while its rows are read and checked."""

    def __init__(self) -> None:
        self._found: dict[str, list[int]] = {}

    def add(self, text: str, line: int) -> None:
        """Count one more row of which the text speaks."""
        found = self._found.get(text)
        if found is None:
            self._found[text] = [1, line]
        else:
            found[0] += 1

    def texts(self) -> list[str]:
        """Return the notes as sentences, in the order in which they came up."""
        return [
            f"{text} ({counted(count, 'row')}, first in line {line:,})"
            for text, (count, line) in self._found.items()
        ]
