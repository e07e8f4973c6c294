"""Datasets as they are read: rows, lines, and what is wrong with them."""

import bz2
import gzip
import io
import lzma
import pickle
import sys

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from endmark.jobs.datasets import open_dataset
from endmark.jobs.errors import DatasetError, MissingDependency, Problem, UsageError

pytestmark = pytest.mark.unit


@pytest.fixture
def read(tmp_path):
    """Write the bytes to a file; return its columns and rows, problems as `line: reason`."""

    def read_bytes(data, name="data.csv", format=None):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        with open_dataset(str(path), format) as dataset:
            rows = [
                f"{item.line}: {item.reason}" if isinstance(item, Problem) else (item[0], list(item[1]))
                for item in dataset
            ]
            return list(dataset.columns), rows

    return read_bytes


def unusable(read, *arguments, **options):
    with pytest.raises(DatasetError) as caught:
        read(*arguments, **options)
    return caught.value


def test_csv(read):
    columns, rows = read('id,prompt\n1,"a, ""b"""\r\n2,c\n')
    assert columns == ["id", "prompt"]
    assert rows == [(2, ["1", 'a, "b"']), (3, ["2", "c"])]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_numbers_count_lines_inside_cells(read, end):
    _, rows = read(end.join(["prompt,x", '"one', "two", '",1', "", "last,2", "short"]))
    assert rows == [(2, [f"one{end}two{end}", "1"]), (6, ["last", "2"]), "7: has 1 cell, the header has 2"]


def test_a_byte_order_mark_is_no_part_of_the_first_name(read):
    assert read(b"\xef\xbb\xbfprompt\nx\n") == (["prompt"], [(2, ["x"])])
    assert read(b'\xef\xbb\xbf{"prompt": 1}', name="data.jsonl") == (["prompt"], [(1, [1])])


def test_a_cell_too_many(read):
    assert read("a,b\n1,2,3\n4,5\n")[1] == [
        "2: has 3 cells, the header has 2; a cell with a comma needs quotes",
        (3, ["4", "5"]),
    ]


def test_bad_encoding_spoils_its_own_line(read):
    _, rows = read(b'prompt,x\nok,1\n"first\nsec\xc3\xa9nd \xe9t\xe9",1\nok,2\n')
    assert rows == [(2, ["ok", "1"]), "4: is not UTF-8: byte 0xe9 at column 9", (5, ["ok", "2"])]
    _, rows = read(b'{"a": 1}\n{"a": "\xff"}\n{"a": 2}\n', name="x.jsonl")
    assert rows == [(1, [1]), "2: is not UTF-8: byte 0xff at column 8", (3, [2])]


def test_nul_bytes_spoil_their_own_line(read):
    assert read("prompt\na\0b\nc\n")[1] == ["2: contains a NUL byte", (3, ["c"])]
    assert read('{"a": 1}\n{"a": "x\0"}\n', name="x.jsonl")[1] == [(1, [1]), "2: contains a NUL byte"]


def test_a_quote_that_is_not_closed(read):
    assert read('a,b\n1,2\n3,"four\nfive,6\n')[1] == [(2, ["1", "2"]), "3: a quote is opened and never closed"]


def test_text_behind_a_closing_quote(read):
    """The csv module's word named a delimiter, which in a file of one column is a sign that nobody has typed."""
    said = "2: text stands behind a quoted cell; a quote inside of quotes is written twice"
    assert read('a,b\n"1"x,2\n3,4\n')[1] == [said, (3, ["3", "4"])]
    assert read('prompt\n"say "so" now"\nb\n')[1] == [said, (3, ["b"])]


def test_a_cell_of_ten_megabytes(read):
    big = "x" * 10_000_000
    assert read(f"prompt\n{big}\n")[1] == [(2, [big])]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_separators_are_seen_in_the_header(read, mark):
    columns, rows = read(f'id{mark}prompt\n1{mark}"a, b{mark}"\n')
    assert (columns, rows) == (["id", "prompt"], [(2, ["1", f"a, b{mark}"])])


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"", 0, "is empty"),
        (b"\n\r\n", 0, "is empty"),
        (b"\xef\xbb\xbf", 0, "is empty"),
        (b"\n,,\n1,2,3\n", 2, "header: no column has a name"),
        (b"a,b,a\n1,2,3\n", 1, "header: `a` stands there more than once"),
        (b"pr\xf6mpt\n1\n", 1, "header is not UTF-8: byte 0xf6 at column 3"),
        (b'"prompt\n1\n', 1, "header: unexpected end of data"),
        ("prompt\nä\n".encode("utf-16"), 0, "is UTF-16 text"),
        ("prompt\nä\n".encode("utf-16-le"), 0, "is UTF-16 text"),
        ("prompt\nä\n".encode("utf-16-be"), 0, "is UTF-16 text"),
        (gzip.compress(gzip.compress(b"prompt\nHi\n")), 0, "is compressed twice"),
        (b"PK\x03\x04 as a zip begins", 0, "is a zip archive"),
        (b"PK\x03\x04" + b"x" * 26 + b"[Content_Types].xml", 0, "is an Excel workbook (.xlsx)"),
        (b"PK\x03\x04" + b"x" * 26 + b"mimetypeapplication/vnd.oasis", 0, "is an OpenDocument file (.ods)"),
        (b"\xd0\xcf\x11\xe0\xa1", 0, "is an old Excel workbook (.xls)"),
        (b"SQLite format 3\0\x10", 0, "is an SQLite database"),
        (pickle.dumps(["a"]), 0, "is a Python pickle"),
        (b"ARROW1\0\0", 0, "is an Arrow or Feather file"),
        (b"%PDF-1.7", 0, "is a PDF document"),
        (b"<!DOCTYPE html><p>Sign in", 0, "is a web page"),
        (b"data/" + b"\0" * 252 + b"ustar", 0, "is a tar archive"),
        ("prompt\n\u00e4\n".encode("utf-32"), 0, "is UTF-32 text"),
    ],
)
def test_files_that_cannot_be_read(read, data, line, reason):
    (problem,) = unusable(read, data).problems
    assert (problem.line, problem.reason) == (line, reason)


def test_jsonl_columns_grow(read):
    columns, rows = read('{"a": 1}\n\n{"b": "x", "a": null}\r\n{"a": [1, {"k": "é"}]}\n', name="x.ndjson")
    assert columns == ["a", "b"]
    assert rows == [(1, [1]), (3, [None, "x"]), (4, [[1, {"k": "é"}], None])]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": 1', "is not JSON: Expecting ',' delimiter at column 8"),
        ("hello", "is not JSON: Expecting value at column 1"),
        ('{"a": "x\ty"}', "is not JSON: Invalid control character at at column 9"),
        ('{"a": NaN}', "is not JSON: `NaN` is no JSON number"),
        ('["a"]', "is an array, not a JSON object"),
        ("12", "is a number, not a JSON object"),
        ("null", "is null, not a JSON object"),
        ('{"a": ' + "[" * 200_000, "is nested too deeply"),
        ('{"a": "\\ud83d"}', "has half of a surrogate pair: \\ud83d"),
        ('{"a": 3, "b": 1, "a": 4}', "has the key 'a' twice"),  # the last one was taken, without a word
        ('{"a": [{"é": 1, "\\u00e9" : 1}]}', "has the key 'é' twice"),
        ('{"a": [{"b\\u0000": 1}]}', "contains a NUL character"),
        ('{"a": ' + "1" * 5000 + "}", "holds a whole number of more than"),
    ],
)
def test_bad_json_lines(read, line, reason):
    columns, rows = read('{"a": 1}\n' + line + '\n{"a": 2}\n', name="x.jsonl")
    assert columns == ["a"]
    assert [rows[0], rows[2]] == [(1, [1]), (3, [2])]
    assert rows[1].startswith(f"2: {reason}")


def test_escapes_that_are_harmless(read):
    assert read(r'{"a": "\\u0000 \ud83d\ude00"}', name="x.jsonl")[1] == [(1, ["\\u0000 😀"])]


def test_a_json_array_is_told_as_such(read):
    error = unusable(read, '[\n {"prompt": "x"}\n]', name="x.json")
    assert error.problems[0].reason == "is a JSON array"
    assert "JSONL" in error.hint


def test_a_file_without_any_json_is_given_up_early(read):
    error = unusable(read, "hello\n" * 5000, name="x.jsonl")
    assert "none of the first 1,000 lines" in error.problems[0].reason


def test_bad_lines_before_the_first_good_one(read):
    columns, rows = read('oops\n{"a": 1}\n', name="x.jsonl")
    assert columns == ["a"]
    assert rows == ["1: is not JSON: Expecting value at column 1", (2, [1])]


def test_raw_is_the_row_as_it_stands(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\n1\n"x\n\xff",2\n')
    with open_dataset(str(path)) as dataset:
        raws = [dataset.raw for _ in dataset]
    assert [raw.encode(errors="surrogateescape") for raw in raws] == [b"1\n", b'"x\n\xff",2\n']
    path = tmp_path / "x.jsonl"
    path.write_text('oops\n{"a": 1}\n{"b"}')
    with open_dataset(str(path)) as dataset:
        assert [dataset.raw for _ in dataset] == ["oops\n", '{"a": 1}\n', '{"b"}']


def test_the_format_is_told_by_the_first_bytes_where_the_name_does_not(read):
    assert read('\n {"prompt": "x"}', name="data.txt")[1] == [(2, ["x"])]
    assert read("prompt\nx\n", name="data")[1] == [(2, ["x"])]
    assert read('{"a": 1}\n', name="data.csv", format="jsonl")[0] == ["a"]


def test_gzip(read):
    assert read(gzip.compress(b"prompt\nx\n"), name="data.csv.gz") == (["prompt"], [(2, ["x"])])
    assert read(gzip.compress(b'{"a": 1}'), name="data.JSONL.gz")[0] == ["a"]


_PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("suffix", _PACK)
def test_compressed_files_by_name_in_any_case_or_by_their_first_bytes(read, suffix):
    """A `.csv.bz2` was "header contains a NUL byte", and a `.GZ` no gzip file."""
    data = _PACK[suffix](b"prompt\nx\n")
    for name in (f"data.csv{suffix}", f"DATA.CSV{suffix.upper()}", "data.csv", "data"):
        assert read(data, name=name) == (["prompt"], [(2, ["x"])])
    assert read(_PACK[suffix](b"a,b\nc\n"), name=f"data.txt{suffix}") == (["prompt"], [(1, ["a,b"]), (2, ["c"])])


@pytest.mark.parametrize("suffix", _PACK)
def test_compressed_files_that_are_cut_off_or_damaged(read, suffix):
    """Zstandard's own reader ends without a word where the file does: rows would be lost unnoticed."""
    data = _PACK[suffix](b"prompt\n" + b"".join(b"%d %d\n" % (n, n * n) for n in range(5000)))
    for broken in (data[: len(data) // 2], data[:-3], data[:20] + b"no such bytes" + data[33:]):
        assert "cannot be read" in unusable(read, broken, name=f"data.csv{suffix}").problems[0].reason


@pytest.mark.parametrize("suffix", _PACK)
def test_a_plain_file_that_is_named_like_a_compressed_one_is_refused_as_a_whole(read, suffix):
    """The name is what is wrong, so no line is told."""
    found = unusable(read, b"prompt\nx\n", name=f"data.csv{suffix}")
    assert str(found.problems[0]).endswith(
        f"data.csv{suffix}: cannot be read: its name ends in `{suffix}`, and it is not compressed so"
    )
    assert found.hint == "name it as what it is"


def test_zstandard_frames_one_behind_the_other(read):
    data = zstandard.compress(b"prompt\nx\n") + zstandard.compress(b"y\n")
    assert read(data, name="data.zst")[1] == [(2, ["x"]), (3, ["y"])]


def test_without_zstandard_the_install_line_is_told(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingDependency) as caught:
        read(zstandard.compress(b"prompt\nx\n"), name="data.csv.zst")
    assert "endmark[zstd]" in caught.value.hint


def test_plain_text_is_one_prompt_a_line(read):
    """The first prompt of a `.txt` became the header, and was lost."""
    data = b'\xef\xbb\xbfName a river, "please".\r\n\r\n  \nName a hill; or two.\n\xff\nA lake'
    assert read(data, name="data.TXT") == (
        ["prompt"],
        [
            (1, ['Name a river, "please".']),
            (4, ["Name a hill; or two."]),
            "5: is not UTF-8: byte 0xff at column 1",
            (6, ["A lake"]),
        ],
    )
    assert read("{not json}\nb\n", name="x.txt")[1] == [(1, ["{not json}"]), (2, ["b"])]
    assert read("id,prompt\n", name="x.csv", format="txt")[1] == [(1, ["id,prompt"])]


def test_columns_without_a_name_get_one(read):
    """What pandas writes, with its index first, was refused."""
    assert read(",prompt,\n0,x,1\n") == (["column_1", "prompt", "column_3"], [(2, ["0", "x", "1"])])
    assert read(' ,column_1,"a"\n0,x,1\n')[0] == ["column_1_", "column_1", "a"]


@pytest.mark.parametrize("line", ["sep=;", "SEP=;", '"sep=;"', "sep=;;;"])
def test_the_line_in_which_excel_names_the_separator(read, line):
    assert read(f"\ufeff{line}\r\nid;prompt, long\r\n1;a\r\n") == (["id", "prompt, long"], [(3, ["1", "a"])])


def test_the_delimiter_is_judged_outside_of_quotes(read):
    assert read('id;"a, b, c";d\n1;2;3\n')[0] == ["id", "a, b, c", "d"]
    assert read('"a;b;c"\n1\n')[0] == ["a;b;c"]
    assert read("id|prompt\n1|x\n")[0] == ["id", "prompt"]
    assert read("a;b,c\n1,2\n")[0] == ["a;b", "c"]
    assert read("id\tprompt, or not\n1\tx\n", name="x.tsv")[0] == ["id", "prompt, or not"]


def test_a_header_without_a_delimiter_is_one_column(read):
    """A prompt with a tab was refused, "a cell with a comma needs quotes"; one with a comma was taken."""
    columns, rows = read('prompt\nHello, world\nx\ty; z|\n"quoted, ""too"""\n')
    assert columns == ["prompt"]
    assert [cells for _, cells in rows] == [["Hello, world"], ["x\ty; z|"], ['quoted, "too"']]


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar")])
def test_a_cell_too_many_names_the_delimiter(read, mark, name):
    assert read(f"a{mark}b\n1{mark}2{mark}3\n")[1] == [
        f"2: has 3 cells, the header has 2; a cell with a {name} needs quotes"
    ]


def test_a_delimiter_may_be_named(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("a,b,c\td\n1,2,3\t4\n")
    for word in ("tab", "\t", "TAB"):
        with open_dataset(str(path), delimiter=word) as dataset:
            assert (dataset.columns, list(dataset)) == (["a,b,c", "d"], [(2, ["1,2,3", "4"])])
    for word in ("", "ab", '"', "\n"):
        with pytest.raises(UsageError, match="cannot be a delimiter"):
            open_dataset(str(path), delimiter=word)
    with pytest.raises(UsageError, match="is for CSV"):
        open_dataset(str(path), "jsonl", delimiter="tab")


def test_a_number_of_too_many_digits_names_no_function_of_python(read):
    _, rows = read('{"a": 1}\n{"a": ' + "1" * 5000 + "}\n", name="x.jsonl")
    assert rows[1] == "2: holds a whole number of more than 4,300 digits"


@pytest.mark.parametrize("number", ["1e999", "-1e400", "1" + "0" * 400 + ".0"])
def test_numbers_that_no_json_can_be_written_for(read, number):
    """`1e999` is valid JSON, is infinity in Python, and came out as `Infinity`, which is none."""
    _, rows = read(f'{{"a": 1}}\n{{"a": [{{"b": {number}}}]}}\n{{"a": 1e308}}\n', name="x.jsonl")
    assert rows[1].startswith("2: has the number ")
    assert rows[1].endswith("which is too large")
    assert rows[2] == (3, [1e308])


def test_a_gzip_file_that_is_cut_off(read):
    data = gzip.compress(b"prompt\n" + bytes(range(48, 58)) * 10, compresslevel=0)
    assert "cannot be read" in unusable(read, data[:40], name="data.csv.gz").problems[0].reason
    assert "cannot be read" in unusable(read, b"prompt\nx\n", name="data.csv.gz").problems[0].reason


@pytest.mark.parametrize(("data", "columns"), [(b"prompt\nx\n", ["prompt"]), (b'{"q": 1}\n', ["q"])])
def test_standard_input(monkeypatch, data, columns):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with open_dataset("-") as dataset:
        assert (dataset.source, dataset.columns) == ("<stdin>", columns)
        assert len(list(dataset)) == 1


def test_what_is_not_there(tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt\n")
    with pytest.raises(UsageError, match="there is no file") as caught:
        open_dataset(str(tmp_path / "promts.csv"))
    assert caught.value.hint == "did you mean `prompts.csv`?"
    with pytest.raises(UsageError, match="is a folder"):
        open_dataset(str(tmp_path))
    with pytest.raises(UsageError, match="unknown format `cvs`") as caught:
        open_dataset(str(tmp_path / "prompts.csv"), "cvs")
    assert caught.value.hint == "did you mean `csv`?"


def test_bytes_of_parquet_that_are_no_text_are_refused(tmp_path):
    """A prompt of Latin-1 bytes was answered, and stored, with its letters replaced; an image became a text."""
    path = tmp_path / "x.parquet"
    table = {
        "prompt": [b"yes", b"Gr\xfc\xdfe", b"yes"],
        "image": [b"plain", None, b"\xff\xd8"],
        "parts": [[b"a"], [], []],
    }
    parquet.write_table(pyarrow.table(table), path)
    with open_dataset(str(path)) as dataset:
        first, *bad = dataset
        assert "object" in dataset.raw or "holds bytes" in dataset.raw
    assert first == (1, ("yes", "plain", ["a"]))
    assert [(item.line, item.reason.partition(":")[0]) for item in bad] == [
        (2, "column `prompt` holds bytes that are not UTF-8 text"),
        (3, "column `image` holds bytes that are not UTF-8 text"),
    ]


def test_json_over_several_lines_is_told_once(read):
    """Each of its lines was told as one that is no JSON, up to twenty of them."""
    error = unusable(read, '{\n "prompt": "a"\n}\n', name="x.json")
    assert (error.problems[0].reason, error.count) == ("is a JSON object over several lines", 1)
    assert "jq -c ." in error.hint


def test_a_link_that_leads_nowhere_is_told_as_one(tmp_path):
    """The hint asked whether the file's own name was meant."""
    link = tmp_path / "x.csv"
    link.symlink_to("/nowhere.csv")
    with pytest.raises(UsageError, match=r"is a link to `/nowhere.csv`, which is not there"):
        open_dataset(str(link))


def test_a_header_in_latin_1_is_told_how_to_convert(read):
    assert "iconv -f WINDOWS-1252" in unusable(read, b"pr\xf6mpt\n1\n").hint
