"""Files written for the user: whole or not at all, through links, and into what is no regular file."""

import bz2
import errno
import gzip
import json
import lzma
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zstandard

from endmark.jobs.compression import SUFFIXES, compressed, split_name
from endmark.jobs.errors import MissingDependency, UsageError
from endmark.jobs.outputs import check_writable, descriptor, is_regular, same_file, written
from tests.devices import device

pytestmark = pytest.mark.unit

PLAIN = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


def put(path, text="new\n"):
    check_writable(Path(path))
    with written(Path(path)) as file:
        file.write(text)


def fail(path, error):
    with written(path) as file:
        file.write("half")
        raise error


def test_a_regular_file_appears_when_it_is_whole_and_keeps_its_mode(tmp_path):
    path = tmp_path / "out.csv"
    with written(path) as file:
        file.write("first\n")
        assert not path.exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    path.chmod(0o640)
    put(path)
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_writer_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path):
    path = tmp_path / "out.csv.gz"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError):
        fail(path, ZeroDivisionError())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_with_the_file(tmp_path):
    path = tmp_path / "out.csv"
    with pytest.raises(UsageError, match=r"cannot write `.*out.csv`: No space left on device") as caught:
        fail(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert "make room" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_links_stay_links_and_what_they_lead_to_is_written(tmp_path):
    """A link to the results' place on another disk had become a file on this one."""
    (tmp_path / "there").mkdir()
    target, link, dangling = tmp_path / "there" / "real.csv", tmp_path / "link.csv", tmp_path / "dangling.csv"
    target.write_text("before")
    link.symlink_to("there/real.csv")
    dangling.symlink_to(tmp_path / "there" / "fresh.csv")
    put(link)
    put(dangling)
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert target.read_text() == (tmp_path / "there" / "fresh.csv").read_text() == "new\n"
    assert sorted(item.name for item in (tmp_path / "there").iterdir()) == ["fresh.csv", "real.csv"]
    nowhere = tmp_path / "nowhere.csv"
    nowhere.symlink_to(tmp_path / "missing" / "x.csv")
    with pytest.raises(UsageError, match=r"there is no folder `.*missing`"):
        check_writable(nowhere)


def test_devices_are_written_into_and_stay_devices(tmp_path):
    """`-o /dev/null`, as root, had left a regular file in its place, and a machine without `/dev/null`."""
    null, full = device(tmp_path, "null"), device(tmp_path, "full")
    put(null)
    assert stat.S_ISCHR(null.stat().st_mode)
    link = tmp_path / "null.csv"
    link.symlink_to(null)
    put(link)
    assert stat.S_ISCHR(link.stat().st_mode)
    with pytest.raises(UsageError, match=rf"cannot write `{full}`: No space left"):
        put(full)
    assert stat.S_ISCHR(full.stat().st_mode)
    assert not list(null.parent.glob(".endmark*"))


def test_a_named_pipe_is_written_into_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    check_writable(pipe)  # which must not wait for a reader
    assert not is_regular(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    put(pipe)
    reader.join()
    assert found == ["new\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_an_open_descriptor_is_written_into_where_it_stands(tmp_path, name):
    """What a shell puts in place of `>(command)`; a redirected file keeps what was written before."""
    path = tmp_path / "all.txt"
    with path.open("w") as file:
        file.write("before\n")
        file.flush()
        place = Path(name.format(file.fileno()))
        assert descriptor(place) == file.fileno()
        link = tmp_path / "link"
        link.symlink_to(place)
        put(place)
        put(link, "again\n")
        file.write("after\n")
    assert path.read_text() == "before\nnew\nagain\nafter\n"


def test_the_standard_streams_by_their_names():
    script = (
        "from pathlib import Path; from endmark.jobs.outputs import written\n"
        "with written(Path('/dev/stdout')) as out, written(Path('/dev/stderr')) as err:\n"
        "    out.write('to out'); err.write('to err')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("to out", "to err")


def test_what_cannot_be_written_is_refused_beforehand(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        check_writable(tmp_path / "no" / "out.csv")
    with pytest.raises(UsageError, match=r"cannot write `.*`: File name too long"):
        check_writable(tmp_path / ("x" * 300))
    check_writable(tmp_path / ("x" * 255))  # beside which nothing longer is needed
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(UsageError, match="Too many levels"):
        check_writable(loop)
    with pytest.raises(UsageError, match="Bad file descriptor"):
        check_writable(Path("/dev/fd/987"))
    with Path(__file__).open() as readable, pytest.raises(UsageError, match="open to be read only"):
        check_writable(Path(f"/dev/fd/{readable.fileno()}"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(UsageError, match="is a socket"):
            check_writable(tmp_path / "s")
    with pytest.raises(UsageError, match=r"has .* free, and `.*out.csv` will need"):
        check_writable(tmp_path / "out.csv", room=2**62)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["loop", "s"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is a folder that takes no file, whoever asks")
def test_a_new_file_is_tried_whatever_the_folders_mode_says(monkeypatch):
    """Else a folder that takes none was found out when the whole job had run."""
    monkeypatch.setattr("endmark.jobs.outputs.os.access", lambda *_: False)
    with pytest.raises(UsageError, match="cannot write"):
        check_writable(Path("/proc/out.csv"))


def test_one_file_is_known_by_any_of_its_names(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("x")
    (tmp_path / "soft.csv").symlink_to(path)
    os.link(path, tmp_path / "hard.csv")
    assert same_file(path, tmp_path / "soft.csv")
    assert same_file(path, tmp_path / "hard.csv")
    assert not same_file(path, tmp_path / "other.csv")
    null = device(tmp_path, "null")
    assert not same_file(null, null)
    with path.open() as file:
        assert same_file(file.fileno(), path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_compressed_name_is_compressed_whole(tmp_path, suffix):
    path = tmp_path / f"out.csv{suffix.upper()}"
    text = "é\r\n" * 10_000
    put(path, text)
    assert path.stat().st_size < 1000
    if suffix in PLAIN:
        assert PLAIN[suffix](path.read_bytes()).decode() == text
    else:
        with zstandard.open(path, "rt", encoding="utf-8", newline="") as file:
            assert file.read() == text
    with path.open("rb") as raw, compressed(raw, suffix, "rb") as plain:
        assert plain.read().decode() == text
    with path.open("ab") as raw, compressed(raw, suffix, "wb") as more:  # as `cat a.gz b.gz` makes them
        more.write(b"end")
    with path.open("rb") as raw, compressed(raw, suffix, "rb") as plain:
        assert plain.read().decode() == text + "end"


def test_names_and_their_compression():
    assert split_name("a.csv.GZ") == ("a.csv", ".gz")
    assert split_name("a.b/c.Zst") == ("a.b/c", ".zst")
    assert split_name("a.csv") == ("a.csv", "")
    assert split_name(".gz") == (".gz", "")


def test_a_missing_library_is_said_beforehand(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingDependency, match=r"`.zst` needs the extra `zstd`"):
        check_writable(tmp_path / "out.csv.zst")


def test_a_lone_surrogate_does_not_lose_the_file(tmp_path):
    put(tmp_path / "out.jsonl", json.dumps({"a": "\ud800"}, ensure_ascii=False))
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"a": "\ud800"}
