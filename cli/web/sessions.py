"""Who is signed in: sessions in memory, and the tokens that prove a form to be a page's own."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from endmark.db.served import Caller

_LIFE = 12 * 3600.0  # seconds
_MOST = 1000  # sessions; beyond it the oldest end


@dataclass(frozen=True, slots=True)
class _Session:
    """A session that is known by the hash of its key."""

    caller: Caller
    until: float


class Sessions:
    """The sessions of one service; they end with it.

    Args:
        clock: seconds that only go on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._found: dict[bytes, _Session] = {}  # in the order in which they began

    def begin(self, caller: Caller) -> str:
        """Return the key of a new session."""
        now = self._clock()
        self._found = {key: item for key, item in self._found.items() if item.until > now}
        while len(self._found) >= _MOST:
            del self._found[next(iter(self._found))]
        key = secrets.token_urlsafe(32)
        self._found[_digest(key)] = _Session(caller, now + _LIFE)
        return key

    def caller(self, key: str) -> Caller | None:
        """Return whose session it is; None if it is none any more."""
        found = self._found.get(_digest(key))
        return found.caller if found is not None and found.until > self._clock() else None

    def end(self, key: str) -> None:
        """End a session."""
        self._found.pop(_digest(key), None)

    def proof(self, key: str) -> str:
        """Return what a form of a session holds; of a service without sessions, that of the empty key."""
        return hmac.new(self._secret, key.encode(), hashlib.sha256).hexdigest()

    def proves(self, key: str, given: str) -> bool:
        """Whether a form is one of a session's; the time that it takes tells nothing of the proof."""
        return hmac.compare_digest(self.proof(key).encode(), given.encode("utf-8", "replace"))


def _digest(key: str) -> bytes:
    """Return a key's hash."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
