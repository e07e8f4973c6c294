"""Who may ask `endmark serve`: tokens, and what is this machine alone."""

import ipaddress
import os
from pathlib import Path

from endmark.jobs.errors import UsageError

TOKENS = "ENDMARK_TOKENS"  # tokens joined by commas


def read_tokens(path: str | None) -> list[str]:
    """Return the tokens that admit.

    Raises:
        UsageError: the file cannot be read, or a token is too short to be one.
    """
    texts = os.environ.get(TOKENS, "").split(",")
    if path is not None:
        try:
            texts += Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the tokens in `{path}`: {error}") from error
    tokens = [text.strip() for text in texts if text.strip()]
    if any(len(token) < 16 for token in tokens):
        raise UsageError("a token has fewer than 16 characters", hint="`openssl rand -hex 24` makes one")
    if path is not None and not tokens:
        raise UsageError(f"there is no token in `{path}`")
    return tokens


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, by which nothing else can be meant."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
