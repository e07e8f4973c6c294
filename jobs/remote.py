"""Files elsewhere: what fsspec reads and writes by a URL (`s3://`, `gs://`, `https://`, `hf://`, …).

The extra `remote` brings fsspec and what it needs for these. Credentials are found where each library looks for
them; those in a URL are used and never shown.
"""

import io
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from endmark.jobs.errors import EndmarkError, MissingDependency, UsageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_NONE_THERE = (404, 410)  # HTTP
_AT_ONCE = 2**20  # bytes
_LOOK = "check the name, and that this machine may use it"


def is_url(name: str) -> bool:
    """Whether a dataset or an output is named by a URL."""
    return _URL.match(name) is not None


def shown(url: str) -> str:
    """Return a URL as it may be shown: without a user, a password, or a signature behind `?`."""
    scheme, _, rest = url.partition("://")
    place = rest.partition("?")[0].partition("#")[0]
    host, slash, path = place.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def file_name(url: str) -> str:
    """Return the last part of a URL's path."""
    return PurePosixPath(urlsplit(url).path).name or shown(url)


def version_of(url: str) -> str | None:
    """Return what changes when the file does, or None where nothing tells."""
    with _said(url, "read"):
        system, path = _system(url)
        try:
            return str(system.checksum(path))
        except NotImplementedError:
            return None


def open_url(url: str) -> io.BufferedReader:
    """Open a file's bytes to be read.

    Raises:
        UsageError: it cannot be opened.
        MissingDependency: its kind needs the extra.
    """
    with _said(url, "read"):
        system, path = _system(url)
        return io.BufferedReader(_Reader(system.open(path, "rb"), shown(url)), _AT_ONCE)


def check_url_writable(url: str) -> None:
    """Refuse a place that does not take files: an empty one is written beside the target and removed.

    Raises:
        UsageError: with what stands in the way.
        MissingDependency: its kind needs the extra.
    """
    if urlsplit(url).scheme in ("http", "https"):
        raise UsageError(f"`{shown(url)}` cannot be written: HTTP is for reading", hint="name a bucket or a file")
    with _said(url, "write"):
        system, path = _system(url)
        beside = f"{path}.endmark-{secrets.token_hex(4)}"
        system.pipe_file(beside, b"")
        system.rm_file(beside)


def upload(files: Sequence[Path], url: str) -> None:
    """Put files into the folder of a URL, each under its own name; a name that is taken is replaced whole.

    Raises:
        UsageError: they cannot be written.
    """
    with _said(url, "write"):
        system, path = _system(url)
        folder = path.rpartition("/")[0]
        for file in files:
            system.put_file(str(file), f"{folder}/{file.name}")


def _system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        raise MissingDependency(f"`{url.partition('://')[0]}://`", "remote") from error


@contextmanager
def _said(url: str, what: str) -> Iterator[None]:
    """Say what a library raises, whatever it is, as an error that names the file."""
    try:
        yield
    except EndmarkError:
        raise
    except FileNotFoundError as error:
        if (cause := _unreached(url, error)) is not None:
            raise UsageError(f"cannot {what} `{shown(url)}`: {_without(url, cause)}", hint=_LOOK) from error
        raise UsageError(f"there is no `{shown(url)}`", hint=_LOOK) from error
    except Exception as error:  # each library has its own, for networks, rights and names
        raise UsageError(
            f"cannot {what} `{shown(url)}`: {_without(url, str(error) or repr(error))}", hint=_LOOK
        ) from error


def _unreached(url: str, error: FileNotFoundError) -> str | None:
    """Return why a file could not be asked for; None where its place says that there is none.

    Over HTTP fsspec says of every failure that there is no such file, be the host away or the answer a 403.
    """
    cause = error.__cause__
    if urlsplit(url).scheme not in ("http", "https") or cause is None or isinstance(cause, FileNotFoundError):
        return None
    status = getattr(cause, "status", None)  # of an answer
    if status is not None:
        return None if status in _NONE_THERE else f"the server answers {status}"
    return str(cause) or repr(cause)


def _without(url: str, text: str) -> str:
    """Return a library's words without what a URL holds in secret."""
    parts = urlsplit(url)
    for secret in (url, parts.password, parts.query):
        if secret:
            text = text.replace(secret, shown(url) if secret == url else "…")
    return text


class _Reader(io.RawIOBase):
    """A remote file as a raw stream; what its library raises becomes an OSError, as files have it."""

    def __init__(self, file: Any, name: str) -> None:  # noqa: ANN401 - fsspec's own
        self._file = file
        self._name = name

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Whether the file can be read from any place."""
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the place."""
        return int(self._file.tell())

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - any writable buffer
        """Read what fits; 0 at the end."""
        try:
            data = self._file.read(len(buffer))
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__} while reading `{self._name}`") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()
