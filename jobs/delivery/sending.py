"""Sending: a request signed as Standard Webhooks has it (standardwebhooks.com), or a command run by `sh`."""

import base64
import hashlib
import hmac
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.parse import urlsplit

from endmark.jobs.delivery.keys import SECRET, Key
from endmark.jobs.delivery.word import URL, Delivery
from endmark.jobs.errors import UsageError

URL_SECONDS = 15.0  # for one request
COMMAND_SECONDS = 3600.0  # for a command, after which it is killed
_SHOWN = 200  # characters of what a command has said

Send = Callable[[Delivery, Key, str, float], str | None]


def check_url(url: str) -> None:
    """Refuse a URL to which no word can be sent.

    Raises:
        UsageError: it is none of http or https, or holds a password.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"`{url}` is no URL to send to", hint="give one of http or https")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "the URL holds a user or a password, which would be stored",
            hint=f"leave it out: the receiver checks the signature by {SECRET}",
        )


def shown_url(url: str) -> str:
    """Return a URL as far as it may be shown: paths and queries of hooks are often secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def send(delivery: Delivery, key: Key, word: str, when: float) -> str | None:
    """Send a word, or run the command with it; return what went wrong, or None.

    Args:
        word: JSON.
        when: seconds since 1970, for the signature.
    """
    return _post(delivery, key, word, when) if delivery.kind == URL else _run(delivery.target, word)


def signature_headers(key: Key, message_id: str, body: bytes, when: float) -> Mapping[str, str]:
    """Return the headers by which a receiver knows the sender, as Standard Webhooks names them."""
    signed = f"{message_id}.{int(when)}.".encode() + body
    digest = base64.b64encode(hmac.new(key.value, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(when)),
        "webhook-signature": f"v1,{digest}",
    }


class _Unfollowed(urllib.request.HTTPRedirectHandler):
    """Takes a redirection as an answer: where it leads nobody has asked for."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Follow nothing."""
        del req, fp, code, msg, headers, newurl


def _post(delivery: Delivery, key: Key, word: str, when: float) -> str | None:
    """Send a word to a URL."""
    body = word.encode()
    headers = {"content-type": "application/json", "user-agent": "endmark"}
    request = urllib.request.Request(  # noqa: S310 - of http or https, which was checked and is proved
        delivery.target,
        data=body,
        headers={**headers, **signature_headers(key, delivery.id, body, when)},
        method="POST",
    )
    try:
        with urllib.request.build_opener(_Unfollowed).open(request, timeout=URL_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"answered {error.code}"
    except urllib.error.URLError as error:
        return f"cannot be reached: {error.reason}"
    except (OSError, HTTPException, ValueError) as error:
        return f"cannot be reached: {error or type(error).__name__}"


def _run(command: str, word: str) -> str | None:
    """Run a command with the word on its standard input and in `ENDMARK_JOB`; its output is dropped."""
    environment: dict[str, Any] = {**os.environ, "ENDMARK_JOB": word}
    process = subprocess.Popen(  # noqa: S602 - a command line of the user, who has the home's key
        command,
        shell=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, said = process.communicate(word, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return f"was killed after {COMMAND_SECONDS:.0f} s"
    if process.returncode == 0:
        return None
    return f"exit code {process.returncode}: {' '.join(said.split())[-_SHOWN:]}".rstrip(": ")
