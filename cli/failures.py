"""The one place where errors become text: `error: …`, and after a blank line `hint: …`, on standard error."""

import errno
import os
import re
import sys

import click

from endmark.cli.terminal import brief, printable
from endmark.jobs.errors import EndmarkError, Interrupted

_INTERRUPTED = 130
_USAGE = 2
_MEANT = {  # what other tools call it, too far from our own name to be found by its letters
    "--stop": "--strategy stop:text=TEXT",
    "--max-tokens": "--max-new-tokens",
    "--max-length": "--max-new-tokens",
    "--out": "--output",
    "--output-file": "--output",
    "--n": "--samples",
    "--system-prompt": "--system",
    "--lora": "--adapter",
    "--separator": "--delimiter",
    "--sep": "--delimiter",
}
_PLACES = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG))
_UNREAD = re.compile("[\udc80-\udcff]")  # bytes that Python could not read as text
_UTF8 = "write it in UTF-8; `LC_ALL=C.UTF-8` is a locale that every terminal and script can have"
_BUG = "set ENDMARK_DEBUG=1 to see where it happened; it is a bug in Endmark"


def report(error: Exception) -> int:
    """Say what went wrong; return the exit code."""
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has had enough; flushing what is left would raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, OSError) and error.errno in _PLACES:
        where = f" `{os.fsdecode(error.filename)}`" if error.filename is not None else ""
        _say("error", f"cannot write{where}: {error.strerror}", "make room, or write to another place")
        # What is left in the streams cannot be written either, and would be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, UnicodeEncodeError) and any(map(_UNREAD.search, sys.argv)):
        _say("error", f"a word of the command is no UTF-8 text: `{next(filter(_UNREAD.search, sys.argv))}`", _UTF8)
        return _USAGE
    if isinstance(error, EndmarkError):
        _say("interrupted" if isinstance(error, Interrupted) else "error", str(error), error.hint)
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return _USAGE
    if isinstance(error, click.ClickException):
        _say("error", plain(error), _hint(error))
        return error.exit_code
    if isinstance(error, click.Abort):
        click.echo("interrupted", err=True)
        return _INTERRUPTED
    _say("error", f"unexpected {type(error).__name__}: {error}", _BUG)
    return 1


def _say(kind: str, text: str, hint: str | None) -> None:
    """Write an error and its hint."""
    click.echo(f"{kind}: {printable(brief(text))}", err=True)
    if hint:
        click.echo(f"\nhint: {printable(hint)}", err=True)


def plain(error: click.ClickException) -> str:
    """Return what click has to say, in the manner of our own messages."""
    if isinstance(error, click.NoSuchOption):
        return f"no option `{error.option_name}`"
    text = re.sub(r"'(\S[^']*)'", r"`\1`", error.format_message()).rstrip(".")
    return text[:1].lower() + text[1:]


def _hint(error: click.ClickException) -> str | None:
    """Return the nearest option, or where the options are listed."""
    if isinstance(error, click.NoSuchOption) and error.option_name in _MEANT:
        return f"it is `{_MEANT[error.option_name]}` here"
    near = getattr(error, "possibilities", None)
    if near:
        return "did you mean " + " or ".join(f"`{name}`" for name in near) + "?"
    context = getattr(error, "ctx", None)
    return f"`{context.command_path} --help` shows how it is used" if context is not None else None
