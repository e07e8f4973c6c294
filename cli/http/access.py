"""Who may ask `endmark serve`: tokens with their owners, and what is this machine alone."""

import hashlib
import ipaddress
import os
import re
import stat
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from endmark.cli.terminal import note
from endmark.db.served import NOBODY, Caller
from endmark.jobs.errors import UsageError

TOKENS, OPERATOR_TOKENS = "ENDMARK_TOKENS", "ENDMARK_OPERATOR_TOKENS"  # joined by commas
_OTHERS = 0o066  # may read or write
_SHORTEST = 16  # characters
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # as RFC 6750 has it
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_UNNAMED = "token-"  # begins the owner of a token without a name


@dataclass(frozen=True, slots=True)
class Access:
    """Who is admitted. Tokens are known by their hashes alone."""

    callers: Mapping[bytes, Caller]  # by the SHA-256 of their tokens; empty: everybody on this machine, as nobody
    renamed: Mapping[str, str]  # owners of tokens from before they had a name, with the names

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return not self.callers

    @property
    def only_owner(self) -> str | None:
        """The owner that there is, where there is no other."""
        owners = {caller.owner for caller in self.callers.values()}
        return owners.pop() if len(owners) == 1 else None

    def caller(self, token: str) -> Caller | None:
        """Return whose a token is; the time that it takes tells nothing of a token."""
        return self.callers.get(_digest(token))


OPEN_ACCESS = Access({}, {})
ANYBODY = Caller(NOBODY)  # who asks without a token where none is asked for


def read_access(
    token_file: str | None, operator_file: str | None, environ: MutableMapping[str, str] = os.environ
) -> Access:
    """Return who is admitted, by files and environment; the tokens leave the environment, which children inherit.

    A token stands alone, or behind the name of its owner and a colon.

    Raises:
        UsageError: a file cannot be read, or has no token; an entry is no token, or is given twice. It does not
            hold the token.
    """
    callers: dict[bytes, Caller] = {}
    renamed: dict[str, str] = {}
    for operator, variable, path in ((False, TOKENS, token_file), (True, OPERATOR_TOKENS, operator_file)):
        entries = [*_of_variable(variable, environ.pop(variable, "")), *(_of_file(path) if path else ())]
        for where, entry in entries:
            name, token = _parsed(where, entry)
            unnamed = f"{_UNNAMED}{_digest(token).hex()[:16]}"
            caller = Caller(name or unnamed, operator)
            if callers.setdefault(_digest(token), caller) != caller:
                raise UsageError(
                    f"{where}: the token stands elsewhere for another", hint="give each a token of its own"
                )
            if name:
                renamed[unnamed] = name
    return Access(callers, renamed)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, by which nothing else can be meant."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _of_variable(variable: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield the entries of a variable, each with the words that say where it stands."""
    for number, entry in enumerate(text.split(","), start=1):
        if entry.strip():
            yield f"{variable}, entry {number}", entry.strip()


def _of_file(path: str) -> Iterator[tuple[str, str]]:
    """Yield the entries of a file, one a line; blank lines, and those that begin with `#`, are passed over."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(
            f"cannot read the tokens in `{path}`: {reason}", hint="name a text file, one token a line"
        ) from error
    mode = Path(path).stat().st_mode
    if stat.S_ISREG(mode) and mode & _OTHERS:
        note(f"the tokens in `{path}` can be read or changed by others on this machine; `chmod 600 {path}`")
    found = False
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.strip().startswith("#"):
            found = True
            yield f"{path}:{number}", line.strip()
    if not found:
        raise UsageError(f"there is no token in `{path}`", hint="write one a line, or `NAME:TOKEN`")


def _parsed(where: str, entry: str) -> tuple[str, str]:
    """Return an entry's owner, empty if it names none, and its token."""
    name, colon, token = (part.strip() for part in entry.rpartition(":"))
    if colon and (not _OWNER.fullmatch(name) or name.startswith(_UNNAMED)):
        raise UsageError(
            f"{where}: what stands before the colon is no name",
            hint=f"letters, digits and `_.@-`, at most 64, not beginning with `{_UNNAMED}`",
        )
    if len(token) < _SHORTEST:
        raise UsageError(
            f"{where}: a token has fewer than {_SHORTEST} characters", hint="`openssl rand -hex 24` makes one"
        )
    if not _TOKEN.fullmatch(token):
        raise UsageError(
            f"{where}: a token has a character that no bearer token has",
            hint="letters, digits and `-._~+/`, `=` at the end; `openssl rand -hex 24` makes one",
        )
    return name, token


def _digest(token: str) -> bytes:
    """Return a token's hash."""
    return hashlib.sha256(token.encode()).digest()
