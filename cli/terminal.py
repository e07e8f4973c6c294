"""What is written for eyes: notes on standard error, and text from data made harmless for a terminal."""

import io
import re
from typing import TextIO

import click

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_ENDLESS = re.compile(r"(\S{160})\S{80,}(\S{40})")


def printable(text: str) -> str:
    """Return the text with control characters, and those that reorder a line, written as escapes."""
    return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    """Return one character as Python would write it."""
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def brief(text: str) -> str:
    """Return a message with its endless words cut in the middle: ids and cells may have any length."""
    return _ENDLESS.sub(r"\1…\2", text)


def one_line(text: str, width: int | None = None) -> str:
    """Return the text as one harmless line, cut to the width."""
    line = printable(" ".join(text.split()))
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def note(text: str) -> None:
    """Write a line for eyes."""
    click.echo(printable(brief(text)), err=True)


def hint(text: str) -> None:
    """Write a hint behind a blank line."""
    click.echo(f"\nhint: {printable(text)}", err=True)


class TerminalText(io.TextIOBase):
    """Standard output as a terminal may have it: what would control the terminal is written as escapes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        """Write the text."""
        self._stream.write(printable(text.replace("\r\n", "\n")))
        return len(text)

    def flush(self) -> None:
        """Flush the terminal."""
        self._stream.flush()
