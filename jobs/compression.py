"""Compressed files of the user: told by the ends of their names, in any case, and read and written as streams."""

import bz2
import gzip
import io
import lzma
import re
import zlib
from pathlib import PurePath
from typing import Any, BinaryIO, Literal, cast

from endmark.jobs.errors import MissingDependency

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_SIGNS = {".gz": rb"\x1f\x8b\x08", ".bz2": rb"BZh[1-9]1AY&SY", ".xz": rb"\xfd7zXZ\0", ".zst": rb"\x28\xb5\x2f\xfd"}
_AT_ONCE = 2**16  # bytes


def split_name(name: str) -> tuple[str, str]:
    """Return a file's name without the end that says how it is compressed, and that end in lower case, or ""."""
    end = PurePath(name).suffix
    return (name[: -len(end)], end.lower()) if end.lower() in SUFFIXES else (name, "")


def compression_of(head: bytes) -> str:
    """Return the one of `SUFFIXES` as whose files a file that begins so is compressed, or ""."""
    return next((suffix for suffix, sign in _SIGNS.items() if re.match(sign, head)), "")


def decompressed(raw: BinaryIO, suffix: str) -> io.BufferedReader:
    """Return a reader of the plain bytes, which raises OSError where the compressed ones are damaged or cut off.

    Args:
        raw: is closed with the reader.
        suffix: one of `SUFFIXES`.

    Raises:
        MissingDependency: it needs an extra.
    """
    return io.BufferedReader(_Plain(raw, compressed(raw, suffix, "rb")), _AT_ONCE)


def check_compression(suffix: str) -> None:
    """Refuse a compression whose library is not installed; `suffix` is one of `SUFFIXES` or empty.

    Raises:
        MissingDependency: it needs an extra.
    """
    if suffix == ".zst":
        _zstandard()


def compressed(raw: BinaryIO, suffix: str, mode: Literal["rb", "wb"]) -> BinaryIO:
    """Return a stream of the plain bytes over one of compressed bytes; closing it leaves `raw` open.

    Args:
        suffix: one of `SUFFIXES`.

    Raises:
        MissingDependency: it needs an extra.
    """
    if suffix == ".zst":
        return _zst(raw, mode)
    if suffix == ".gz":  # without name and time, so that the same rows give the same bytes
        return cast(BinaryIO, gzip.GzipFile("", mode, fileobj=raw, mtime=0, compresslevel=6))
    return cast(BinaryIO, bz2.BZ2File(raw, mode) if suffix == ".bz2" else lzma.LZMAFile(raw, mode))


def _zst(raw: BinaryIO, mode: Literal["rb", "wb"]) -> BinaryIO:
    """Return a stream over Zstandard's frames."""
    library = _zstandard()
    if mode == "rb":
        return cast(BinaryIO, _Frames(raw, library))
    return cast(BinaryIO, library.ZstdCompressor().stream_writer(raw, closefd=False))


class _Plain(io.RawIOBase):
    """The bytes of a stream that decompresses; what each library raises becomes an OSError."""

    def __init__(self, raw: BinaryIO, plain: BinaryIO) -> None:
        self._raw = raw
        self._plain = plain

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - any writable buffer
        """Read what fits; 0 at the end."""
        try:
            data = self._plain.read(len(buffer))
        except EOFError as error:
            raise OSError("the compressed file is cut off") from error
        except (zlib.error, lzma.LZMAError) as error:
            raise OSError(f"the compressed file is damaged: {error}") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close both streams."""
        if not self.closed:
            self._plain.close()
            self._raw.close()
        super().close()


class _Frames(io.RawIOBase):
    """The plain bytes of Zstandard frames; the library's own reader does not notice that a file is cut off."""

    def __init__(self, raw: BinaryIO, library: Any) -> None:  # noqa: ANN401 - a module
        self._raw = raw
        self._library = library
        self._frame: Any = None  # the one that is being read
        self._ahead = b""  # compressed bytes behind the last frame
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - any writable buffer
        """Read what there is; 0 at the end."""
        while not self._plain:
            data = self._ahead or self._raw.read(_AT_ONCE)
            self._ahead = b""
            if not data:
                if self._frame is not None:
                    raise EOFError
                return 0
            self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
            try:
                self._plain = memoryview(self._frame.decompress(data))
            except self._library.ZstdError as error:
                raise OSError(f"the compressed file is damaged: {error}") from error
            if self._frame.eof:
                self._ahead, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count


def _zstandard() -> Any:  # noqa: ANN401 - a module without types for us
    """Import the package `zstandard`: Python has no Zstandard of its own before 3.14."""
    try:
        import zstandard
    except ImportError as error:
        raise MissingDependency("a file in `.zst`", "zstd") from error
    return zstandard
