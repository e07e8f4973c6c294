"""Any bytes whatever are read as rows, or refused with an error that names the line; nothing else ever comes."""

import bz2
import gzip
import io
import json
import lzma

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endmark.jobs.datasets import FORMATS, checked_rows, open_dataset, settle
from endmark.jobs.datasets.base import Source
from endmark.jobs.errors import DatasetError, SpecError, UsageError
from endmark.jobs.spec import GenerationSpec

pytestmark = pytest.mark.unit

_cell = st.text(max_size=6) | st.sampled_from(
    ["1", "0.7", "-1", "nan", '"', '""', 'a "b"', "é🏁", "\x00", " ", "["]
)
_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _cell,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
_turns = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "x"]), "content": st.text(max_size=4) | st.none()}
    ),
    max_size=3,
)
_name = st.sampled_from(
    ["prompt", "id", "custom_id", "messages", "temperature", "max_new_tokens", "seed", "x", "body"]
)
_csv = st.tuples(
    st.lists(_name | st.text(max_size=4), max_size=4), st.lists(st.lists(_cell, max_size=4), max_size=5)
).map(lambda table: "\n".join(",".join(line) for line in [table[0], *table[1]]).encode(errors="surrogatepass"))
_jsonl = st.lists(
    st.dictionaries(_name | st.text(max_size=4), _value | _turns, max_size=4).map(json.dumps)
    | _value.map(json.dumps)
    | st.text(max_size=8),
    max_size=5,
).map(lambda lines: "\n".join(lines).encode(errors="surrogatepass"))
_deep = st.integers(1, 200_000).map(lambda depth: b'{"prompt": ' + b"[" * depth)
_bytes = st.binary(max_size=60) | _csv | _jsonl | _deep


@st.composite
def _damaged(draw):
    """A dataset of which some bytes may have been changed, doubled or lost."""
    data = bytearray(draw(_bytes))
    for _ in range(draw(st.integers(0, 2))):
        if data:
            at = draw(st.integers(0, len(data) - 1))
            data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


_specs = st.sampled_from([GenerationSpec(model="m"), GenerationSpec(model="m", template="Say {x} and {prompt}")])


def read(data, format, spec, skip):
    """Read a dataset as `endmark submit` does; return its rows and what was left out."""
    found, left_out = [], []
    try:
        with FORMATS[format](Source("data", io.BufferedReader(io.BytesIO(data)))) as dataset:
            settled = settle(spec, dataset, skip_bad_rows=skip)
            reject = (lambda problem, raw: left_out.append((problem, raw))) if skip else None
            for batch in checked_rows(dataset, settled, on_bad=reject):
                found += [row.cells for row in batch]
            width = len(dataset.columns)
    except (DatasetError, SpecError) as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        assert str(refusal)
        if isinstance(refusal, DatasetError):
            assert refusal.count >= len(refusal.problems) >= 1
            assert all(str(problem).startswith("data") and problem.reason for problem in refusal.problems)
        return None
    for row in found:
        cells = json.loads(row)
        assert isinstance(cells, list)
        assert len(cells) <= width
        row.encode()
        assert not {"\n", "\t", "\0"} & set(row)  # as COPY needs it
    assert all(problem.line > 0 for problem, _ in left_out)
    return found


def check(data, format, spec):
    whole = read(data, format, spec, skip=False)
    good = read(data, format, spec, skip=True)
    if whole is not None:
        assert good == whole


_names = st.sampled_from(sorted(set(FORMATS) & {"csv", "jsonl", "openai", "txt"}))


@given(_damaged(), _names, _specs)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_rows_or_a_clear_error(data, format, spec):
    check(data, format, spec)


_packed = st.sampled_from([bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
_encoded = st.tuples(
    st.text(max_size=20), st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "latin-1", "cp1252"])
).map(lambda item: item[0].encode(item[1], errors="replace"))
_suffixes = st.sampled_from(["csv", "tsv", "jsonl", "txt", "JSON", "dat", "csv.gz", "txt.bz2", "jsonl.xz", "zst"])
_delimiters = st.sampled_from([None, "tab", ";", "|", " "])


@given(_damaged() | _encoded, _packed, st.integers(0, 40), _suffixes, _delimiters)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_file_is_opened_and_read_or_refused_by_its_name(tmp_path_factory, data, pack, lost, suffix, mark):
    """Compressed, cut off, in other encodings, under any name: rows, or an error that names the file."""
    path = tmp_path_factory.getbasetemp() / f"data.{suffix}"
    packed = pack(data)
    path.write_bytes(packed[: len(packed) - lost] if lost < 20 else packed)
    refusal = ""
    try:
        with open_dataset(str(path), delimiter=mark) as dataset:
            spec = settle(GenerationSpec(model="m"), dataset, skip_bad_rows=True)
            for batch in checked_rows(dataset, spec, on_bad=lambda problem, raw: None):
                for row in batch:
                    json.loads(row.cells)
            assert all(isinstance(text, str) for text in dataset.notes.texts())
    except UsageError as error:
        refusal = str(error)
    assert not refusal or str(path) in refusal


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(_damaged(), _names, _specs)
@settings(max_examples=100_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_rows_or_a_clear_error_a_hundred_thousand_times(data, format, spec):
    check(data, format, spec)
