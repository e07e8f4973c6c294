"""The keys by which deliveries are proved: a secret of the environment for URLs, a file of the home for commands.

What is stored with a job carries a proof under one of these keys. So a process runs no command, and sends to no
URL, that somebody has only written into the database; and one without the key leaves the delivery to those that
have it.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from endmark.jobs.errors import UsageError
from endmark.jobs.private import open_private

SECRET = "ENDMARK_NOTIFY_SECRET"
_FILE = "delivery.key"  # in the home
_KEY_BYTES = 32
_SHORTEST = 16  # bytes of a secret
_PREFIX = "whsec_"  # of a secret in base64, as Standard Webhooks writes it


@dataclass(frozen=True, slots=True)
class Key:
    """A key for one kind of delivery."""

    value: bytes

    @property
    def id(self) -> str:
        """What the key is known by in the ledger: 16 hex digits that do not tell it."""
        return self.sign(b"endmark delivery key")[:16]

    def sign(self, *parts: bytes) -> str:
        """Return the HMAC-SHA256 of the parts, each behind its length, in hex digits."""
        whole = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.new(self.value, whole, hashlib.sha256).hexdigest()

    def proof(self, job_id: str, kind: str, target: str) -> str:
        """Return what proves that this delivery was asked for by who has the key."""
        return self.sign(job_id.encode(), kind.encode(), target.encode())

    def proves(self, proof: str, job_id: str, kind: str, target: str) -> bool:
        """Whether a proof is this key's."""
        return hmac.compare_digest(proof, self.proof(job_id, kind, target))


def secret_key(environ: Mapping[str, str] = os.environ) -> Key | None:
    """Return the key of the environment, for URLs; None where none is set.

    Raises:
        UsageError: it is too short, or not base64 behind its `whsec_`.
    """
    given = environ.get(SECRET, "")
    if not given:
        return None
    value = given.encode()
    if given.startswith(_PREFIX):
        try:
            value = base64.b64decode(given.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            raise UsageError(f"{SECRET} is not base64 behind `{_PREFIX}`", hint=_make_one()) from None
    if len(value) < _SHORTEST:
        raise UsageError(f"{SECRET} has less than {_SHORTEST} bytes", hint=_make_one())
    return Key(value)


def needed_secret(environ: Mapping[str, str] = os.environ) -> Key:
    """Return the key of the environment.

    Raises:
        UsageError: none is set, or it cannot be used.
    """
    key = secret_key(environ)
    if key is None:
        raise UsageError(f"`--notify` signs with the secret in {SECRET}, which is not set", hint=_make_one())
    return key


def home_key(home: Path, *, make: bool = False) -> Key | None:
    """Return the key of a home, for commands.

    Args:
        make: whether to make one where there is none; else None is returned then.

    Raises:
        UsageError: it is damaged, or cannot be read or written.
    """
    path = home / _FILE
    try:
        if make and not path.exists():
            _write_once(path)
        value = path.read_bytes() if path.exists() else None
    except OSError as error:
        raise UsageError(f"cannot use `{path}`: {error.strerror}", hint="correct its owner and mode") from error
    if value is not None and len(value) != _KEY_BYTES:
        raise UsageError(f"`{path}` is no key", hint="delete it; commands of jobs stored before will not be run")
    return None if value is None else Key(value)


def _write_once(path: Path) -> None:
    """Make the key; of two processes at once the first one's stays."""
    beside = path.with_name(f".{_FILE}.{secrets.token_hex(4)}")
    with open_private(beside, "xb") as file:
        file.write(secrets.token_bytes(_KEY_BYTES))
    try:
        with suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()


def _make_one() -> str:
    """Return how to get a secret."""
    return f"`export {SECRET}=whsec_$(openssl rand -base64 24)`, for workers too"
