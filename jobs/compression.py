"""Compressed files of the user: told by the ends of their names, in any case, and read and written as streams."""

import bz2
import gzip
import lzma
from pathlib import PurePath
from typing import Any, BinaryIO, Literal, cast

from endmark.jobs.errors import MissingDependency

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


def split_name(name: str) -> tuple[str, str]:
    """Return a file's name without the end that says how it is compressed, and that end in lower case, or ""."""
    end = PurePath(name).suffix
    return (name[: -len(end)], end.lower()) if end.lower() in SUFFIXES else (name, "")


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
        reader = library.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
        return cast(BinaryIO, reader)
    return cast(BinaryIO, library.ZstdCompressor().stream_writer(raw, closefd=False))


def _zstandard() -> Any:  # noqa: ANN401 - a module without types for us
    """Import the package `zstandard`: Python has no Zstandard of its own before 3.14."""
    try:
        import zstandard
    except ImportError as error:
        raise MissingDependency("a file in `.zst`", "zstd") from error
    return zstandard
