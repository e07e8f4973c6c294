"""`-o` of the commands: what a name says, what is refused before anything is stored, what stays as it was."""

import bz2
import csv
import gzip
import json
import lzma
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from pyarrow import parquet

from endmark.cli.main import main
from endmark.db.connection import open_store
from endmark.db.jobs import load_job
from endmark.jobs.errors import UsageError
from endmark.jobs.settings import Settings
from tests.devices import device

pytestmark = pytest.mark.integration

ENDMARK = Path(sys.executable).with_name("endmark")


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Run a command in this process; return its exit code, standard output and standard error."""
    for name in ("ENDMARK_DATABASE_URL", "ENDMARK_BROKER_URL", "ENDMARK_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main([str(word) for word in words])
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def job(call):
    Path("data.csv").write_text("id,prompt\n1,one\n2,two\n")
    code, out, err = call("submit", "data.csv")
    assert code == 0, err
    return out.strip()


def plain(path):
    """A file's bytes without its compression."""
    data, end = Path(path).read_bytes(), Path(path).suffix.lower()
    if end == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}.get(end, bytes)(data)


@pytest.mark.parametrize("name", ["out", "OUT.CSV", "out.csv.gz", "out.csv.BZ2", "out.csv.xz", "out.csv.zst"])
def test_comma_separated(call, job, name):
    assert call("export", job, "-o", name)[0] == 0
    rows = list(csv.DictReader(plain(name).decode().splitlines()))
    assert [row["prompt"] for row in rows] == ["one", "two"]


def test_parts_have_each_row_once_and_in_order(call, job):
    """Of ten million rows one process wrote for minutes, and no second one could be put to it."""
    Path("five.csv").write_text("prompt\n" + "".join(f"row {row}\n" for row in range(5)))
    job = call("submit", "five.csv")[1].strip()
    for number in (1, 2, 3):
        code, _, err = call("export", job, "--part", f"{number}/3", "-o", f"{number}.csv")
        assert code == 0
        assert f"of job {job}, part {number}/3, written to `{number}.csv`" in err
    found = [list(csv.DictReader(Path(f"{number}.csv").read_text().splitlines())) for number in (1, 2, 3)]
    assert [[row["prompt"] for row in rows] for rows in found] == [
        ["row 0"],
        ["row 1", "row 2"],
        ["row 3", "row 4"],
    ]
    (last,) = csv.DictReader(call("export", job, "--part", "9/9", "-o", "-")[1].splitlines())
    assert last["prompt"] == "row 4"
    code, _, err = call("export", job, "--part", "1/2", "-o", "some.csv", "--trace", "trace.jsonl")
    assert code == 2
    assert "`--trace` is of all rows" in err


@pytest.mark.parametrize("part", ["3", "0/2", "3/2", "a/b", "1/", "1/0", "-1/2"])
def test_what_is_no_part_is_refused(call, job, part):
    code, _, err = call("export", job, "-o", "out.csv", f"--part={part}")
    assert code == 2
    assert f"error: `{part}` is no part\n\nhint: `--part 2/8` is the second of eight" in err
    assert not Path("out.csv").exists()


@pytest.mark.parametrize("name", ["out.tsv", "OUT.TSV", "out.tsv.gz"])
def test_tab_separated(call, job, name):
    assert call("export", job, "-o", name)[0] == 0
    rows = list(csv.DictReader(plain(name).decode().splitlines(), delimiter="\t"))
    assert [row["prompt"] for row in rows] == ["one", "two"]


@pytest.mark.parametrize("name", ["OUT.JSONL", "out.ndjson", "Out.NdJson", "out.jsonl.gz", "out.ndjson.ZST"])
def test_json_lines(call, job, name):
    """`OUT.JSONL` and `out.ndjson` were comma separated."""
    assert call("export", job, "-o", name)[0] == 0
    assert [json.loads(line)["prompt"] for line in plain(name).splitlines()] == ["one", "two"]


def test_parquet(call, job):
    assert call("export", job, "-o", "OUT.Parquet")[0] == 0
    assert parquet.read_table("OUT.Parquet").column("prompt").to_pylist() == ["one", "two"]
    code, _, err = call("export", job, "-o", "out.parquet.gz")
    assert code == 2
    assert "compressed already" in err


def test_what_is_written_can_be_read_again(call, job):
    for name in ("a.csv", "b.tsv", "c.jsonl", "d.ndjson", "e.parquet", "f.csv.gz"):
        assert call("export", job, "-o", name)[0] == 0
        code, out, err = call("submit", name)
        assert code == 0, err
        with open_store(Settings.load().database_url) as store:
            again = load_job(store, out.strip())
        assert (again.total, "prompt" in again.columns, "response" in again.columns) == (2, True, True)


@pytest.mark.parametrize(
    "name", ["x.xlsx", "x.json", "x.txt", "x.ods", "x.jsonl.zip", "x.csv.bak", "x.json.gz", "x.XLS"]
)
def test_other_names_are_refused_before_a_job_is_stored(call, name):
    """The whole job had run before `x.xlsx` was refused; `x.json` was comma separated."""
    Path("data.csv").write_text("prompt\none\n")
    code, _, err = call("run", "data.csv", "-o", name)
    assert code == 2
    assert f"error: `{name}`: there is no format for" in err
    known = ".csv, .tsv, .jsonl, .ndjson, .arrow, .feather, .parquet"
    assert f"hint: choose from {known}; text ones may have .gz" in err
    assert call("status", "--json")[1] == "[]\n"
    assert not Path(name).exists()


def test_a_format_that_is_named_may_stand_in_any_file(call, job):
    assert call("export", job, "-o", "x.json", "--format", "jsonl")[0] == 0
    assert len([json.loads(line) for line in Path("x.json").read_text().splitlines()]) == 2
    code, _, err = call("export", job, "-o", "x.json", "--format", "jsnl")
    assert code == 2
    assert "did you mean `jsonl`?" in err


@pytest.mark.parametrize("output", ["data.csv", "soft.csv", "hard.csv", "./sub/../data.csv"])
@pytest.mark.parametrize("command", ["run"])
def test_the_dataset_is_not_written_over(call, command, output):
    Path("data.csv").write_text("prompt\none\n")
    Path("sub").mkdir()
    Path("soft.csv").symlink_to("data.csv")
    os.link("data.csv", "hard.csv")
    code, _, err = call(command, "data.csv", "-o", output)
    assert code == 2
    assert f"error: `{output}` is the dataset itself" in err
    assert Path("data.csv").read_text() == "prompt\none\n"
    assert call("status", "--json")[1] == "[]\n"


def test_standard_input_is_not_written_over_either(call):
    Path("data.csv").write_text("prompt\none\n")
    for line in (f"{ENDMARK} run - -o data.csv < data.csv", f"{ENDMARK} run data.csv -o - >> data.csv"):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert done.returncode == 2
        assert "is the dataset itself" in done.stderr
    assert Path("data.csv").read_text() == "prompt\none\n"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("no/such/out.csv", "there is no folder `"),
        (".", "is a folder"),
        ("out/", "is a folder"),
        ("data.csv/out.csv", "Not a directory"),
        ("s.csv.zst", "needs the extra `zstd`"),
    ],
)
def test_a_place_that_takes_no_file_is_refused_before_a_job_is_stored(call, monkeypatch, output, message):
    Path("data.csv").write_text("prompt\none\n")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    code, _, err = call("run", "data.csv", "-o", output)
    assert code != 0
    assert message in err
    assert call("status", "--json")[1] == "[]\n"


def test_streams_are_written_into_and_stay_what_they_were(call, job, tmp_path):
    """As root, `-o /dev/null` had replaced the device by a file; so it was with pipes and `>(command)`."""
    null, full = device(tmp_path, "null"), device(tmp_path, "full")
    assert call("export", job, "-o", null)[0] == 0
    assert stat.S_ISCHR(null.stat().st_mode)
    os.mkfifo("pipe")
    wanted = call("export", job, "-o", "-")[1]
    name = shlex.quote(str(ENDMARK))
    for line in (
        f"{name} export {job} -o /dev/stdout",
        f"{name} export {job} -o /dev/stdout | cat",
        f"{name} export {job} -o >(cat > got); while ! [ -s got ]; do sleep 0.05; done; cat got",
        f"cat pipe & {name} export {job} -o pipe; wait",
        f"{name} export {job} -o /dev/fd/5 5>five; cat five",
        f"{name} export {job} -o /dev/stdout > six; cat six",
    ):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert done.stdout == wanted.replace("\r\n", "\n"), line
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)
    code, _, err = call("export", job, "-o", full)
    assert code == 2
    assert f"cannot write `{full}`: No space left on device" in err


def test_the_second_file_of_a_stream_goes_into_it(call, job):
    """`-o /dev/null --format openai` must not make `/dev/null.errors.jsonl`."""
    assert call("cancel", job)[0] == 0
    code, out, _ = call("export", job, "-o", "/dev/stdout", "--format", "openai")
    assert (code, len(out.splitlines())) == (0, 2)
    assert not list(Path("/dev").glob("*.errors.jsonl"))
    assert call("export", job, "-o", "out.jsonl.gz", "--format", "openai")[0] == 0
    assert len(plain("out.errors.jsonl.gz").splitlines()) == 2
    Path("other.errors.jsonl").mkdir()
    code, _, err = call("export", job, "-o", "other.jsonl", "--format", "openai")
    assert code == 2
    assert "`other.errors.jsonl` is a folder" in err


def test_traces_and_rejected_rows_follow_links_too(call, job):
    Path("there").mkdir()
    Path("trace.jsonl").symlink_to("there/trace.jsonl")
    assert call("export", job, "-o", "out.csv", "--trace", "trace.jsonl")[0] == 0
    assert Path("there/trace.jsonl").read_text().startswith('{"job": ')
    code, _, err = call("export", job, "-o", "out.csv", "--trace", "./out.csv")
    assert code == 2
    assert "is the file of results too" in err
    Path("bad.csv").write_text("id,prompt\n1,\n2,two\n")
    Path("bad.csv.rejected.csv").symlink_to("there/rejected.csv")
    assert call("submit", "bad.csv", "--skip-bad-rows")[0] == 0
    assert Path("bad.csv.rejected.csv").is_symlink()
    assert len(Path("there/rejected.csv").read_text().splitlines()) == 2


def test_bad_rows_replace_those_of_before_and_nothing_else(call):
    """A user's own file that happened to have the name was replaced."""
    Path("bad.csv").write_text("id,prompt\n1,\n2,two\n")
    for _ in range(2):
        assert call("submit", "bad.csv", "--skip-bad-rows")[0] == 0
    Path("bad.csv.rejected.csv").write_text("mine\n")
    code, out, err = call("submit", "bad.csv", "--skip-bad-rows")
    assert (code, out) == (2, "")
    assert "holds something else than bad rows" in err
    assert Path("bad.csv.rejected.csv").read_text() == "mine\n"


def test_bad_rows_of_a_pipe_go_to_the_current_folder(call):
    line = f"{ENDMARK} submit <(printf 'id,prompt\\n1,\\n2,two\\n') --skip-bad-rows"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 bad row left out, with reasons in `stdin.rejected.csv`" in done.stderr


def test_a_page_follows_links_and_goes_into_streams(call, job):
    Path("there").mkdir()
    Path("page.html").symlink_to("there/page.html")
    assert call("report", job, "-o", "page.html")[0] == 0
    assert Path("page.html").is_symlink()
    page = Path("there/page.html").read_text()
    assert page.startswith("<!")
    assert call("report", job, "-o", "/dev/stdout")[1].startswith("<!")
    assert call("report", job, "-o", "page.csv")[0] == 2


def test_the_exit_of_a_writer_that_fails_keeps_the_file(call, job, monkeypatch):
    """What the disk refuses late is told with the file, which is as it was."""
    Path("out.csv").write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, _, err = call("export", job, "-o", "out.csv")
    assert code == UsageError.exit_code
    assert "error: cannot write `out.csv`: No space left on device" in err
    assert Path("out.csv").read_text() == "before"
    assert not list(Path().glob(".endmark*"))
