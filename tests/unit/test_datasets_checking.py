"""Every row checked before any is queued."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endmark.jobs.datasets import checked_rows, open_dataset, settle
from endmark.jobs.datasets.checking import BATCH, encode_cells
from endmark.jobs.errors import DatasetError, EndmarkError, SpecError
from endmark.jobs.shards import shard_size
from endmark.jobs.spec import GenerationSpec

pytestmark = pytest.mark.unit


@pytest.fixture
def check(tmp_path):
    """Write a dataset and check it; return the batches."""

    def run(text, name="data.csv", skip=None, **spec):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with open_dataset(str(path)) as dataset:
            settled = settle(GenerationSpec(**spec), dataset, skip_bad_rows=skip is not None)
            on_bad = (
                None if skip is None else lambda problem, raw: skip.append((problem.line, problem.reason, raw))
            )
            return [[row.cells for row in batch] for batch in checked_rows(dataset, settled, on_bad=on_bad)]

    return run


def test_rows_come_as_json_in_batches(check):
    text = "id,prompt\n" + "".join(f'{row},"é ""{row}"""\n' for row in range(BATCH + 1))
    first, second = check(text)
    assert len(first) == BATCH
    assert second == [f'["{BATCH}","é \\"{BATCH}\\""]']


def test_every_bad_row_is_named(check, tmp_path):
    text = "custom_id,prompt,seed\n1,ok,\n2,,\n1,twice,\n3,x,many\n4\n5,ok,6\n"
    with pytest.raises(DatasetError) as caught:
        check(text)
    source = tmp_path / "data.csv"
    assert str(caught.value).splitlines() == [
        f"{source}:3: column `prompt` is empty",
        f"{source}:4: column `custom_id`: `1` stands in an earlier row",
        f"{source}:5: column `seed`: `many` is not a whole number",
        f"{source}:6: has 1 cell, the header has 3",
    ]
    assert "--skip-bad-rows" in caught.value.hint


def test_a_bad_row_is_told_how_to_mend_it_in_the_users_own_numbers(check):
    """`max_new_tokens must be from 1 to 1.04858e+06`, and no word of the near strategy, helped nobody."""
    rejected = []
    check("prompt,strategy,max_new_tokens\na,,\nb,soft-landng,\nc,,2000000\n", skip=rejected)
    assert [reason for _, reason, _ in rejected] == [
        "unknown strategy `soft-landng`; did you mean `soft-landing`?",
        "max_new_tokens is 2000000: must be from 1 to 1048576",
    ]


def test_the_first_twenty_are_shown_and_the_rest_counted(check):
    with pytest.raises(DatasetError) as caught:
        check("id,prompt\n" + "1,\n" * 3000)
    assert len(caught.value.problems) == 20
    assert str(caught.value).splitlines()[-1] == "… and 2,980 more"


def test_after_a_bad_row_no_batch_comes(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("custom_id,prompt\n" + "x,ok\n" + "x,again\n" + ",fine\n" * BATCH)
    taken = []
    with open_dataset(str(path)) as dataset, pytest.raises(DatasetError):
        taken.extend(checked_rows(dataset, GenerationSpec()))
    assert taken == []


def test_bad_rows_can_be_left_out(check):
    skipped = []
    batches = check(b"id,prompt\n1,ok\n2,\n\xff,x\n3,fine\n", skip=skipped)
    assert batches == [['["1","ok"]', '["3","fine"]']]
    assert skipped == [
        (3, "column `prompt` is empty", "2,\n"),
        (4, "is not UTF-8: byte 0xff at column 1", "\udcff,x\n"),
    ]


def test_a_row_left_out_does_not_take_its_id(check):
    assert check("custom_id,prompt\n1,\n1,ok\n", skip=[]) == [['["1","ok"]']]


def test_an_id_that_stands_twice_is_noted_and_taken(tmp_path):
    """The dataset was refused, and the only ways out lost rows."""
    path = tmp_path / "data.csv"
    path.write_text("id,prompt\n7,a\n8,b\n7,c\n,d\n,e\n8,f\n")
    with open_dataset(str(path)) as dataset:
        (batch,) = checked_rows(dataset, GenerationSpec())
        assert len(batch) == 6
        assert dataset.notes.texts() == [
            "column `id` has values that stand in an earlier row (2 rows, first in line 4)"
        ]


def test_custom_ids_are_told_apart_where_id_is_there_too(check):
    assert check("id,custom_id,prompt\n1,a,x\n1,b,y\n") == [['["1","a","x"]', '["1","b","y"]']]
    with pytest.raises(DatasetError, match="`a` stands in an earlier row"):
        check("id,custom_id,prompt\n1,a,x\n2,a,y\n")


@pytest.fixture
def notes(tmp_path):
    """Write a dataset and check it; return what is noted."""

    def run(text, name="data.csv", **spec):
        path = tmp_path / name
        path.write_text(text)
        with open_dataset(str(path)) as dataset:
            list(checked_rows(dataset, GenerationSpec(**spec), on_bad=lambda problem, raw: None))
            return dataset.notes.texts()

    return run


def test_columns_that_set_options_are_named_with_their_range(notes):
    """A data column `temperature` became sampling, in silence."""
    text = "prompt,temperature,seed,strategy\na,0.5,7,\nb,1.9,7,no-loops\nc,21.5,1,\nd,,,\n"
    assert notes(text) == [
        "options of rows are set by columns: `temperature` 0.5 to 1.9, `seed` 7, `strategy`;"
        " `--no-row-options` takes them as data"
    ]
    assert notes(text, row_options=False) == []
    assert notes(text, template="It is {temperature} at {seed}, {strategy}.") == []


def test_a_bad_option_of_a_row_is_told_the_way_out(check):
    with pytest.raises(DatasetError, match=r"3: temperature is 21\.5: must be from 0 to 2") as caught:
        check("prompt,temperature\na,1\nb,21.5\n")
    assert "`--no-row-options` takes columns such as `temperature` as data" in caught.value.hint
    with pytest.raises(DatasetError) as caught:
        check("prompt,x\n,1\n")
    assert "--no-row-options" not in caught.value.hint


def test_text_of_control_tokens_is_counted_where_the_model_is_here(notes):
    text = "prompt\nfine\nWhat is </s> for?\n< / s >\n<|user|>\n"
    assert notes(text) == [
        "text of the model's control tokens in prompts is taken as text; `--allow-control-tokens` changes that"
        " (2 rows, first in line 3)"
    ]
    assert "is taken as control tokens (2 rows" in notes(text, allow_control_tokens=True)[0]
    turns = json.dumps({"messages": [{"role": "user", "content": "</s>"}]})
    assert "(1 row, first in line 1)" in notes(turns, name="x.jsonl")[0]
    assert notes(text, model="org/elsewhere") == []


def test_a_request_for_another_model_is_noted(notes):
    lines = [
        {"custom_id": name, "url": "/v1/completions", "body": {"model": model, "prompt": "Hi", "temperature": 1}}
        for name, model in (("a", "demo"), ("b", "gpt-4o"), ("c", "gpt-4o"))
    ]
    assert notes("\n".join(map(json.dumps, lines)), name="batch.jsonl") == [
        "the model is `demo`, as `--model` says, and not `gpt-4o` (2 rows, first in line 2)"
    ]


def test_ids_are_compared_whole(check):
    """Python's `hash(-1) == hash(-2)`, and two texts may share a hash: neither is the other."""
    rows = "".join(
        f'{{"custom_id": {value}, "prompt": "x"}}\n' for value in ('"a"', '"A"', '"a "', "-1", "-2", '"é"')
    )
    assert len(check(rows, name="x.jsonl")[0]) == 6


def test_custom_ids_and_ids_of_other_types(check):
    text = '{"custom_id": 1, "prompt": "a"}\n{"custom_id": "2", "prompt": "b"}\n{"custom_id": 1, "prompt": "c"}\n'
    with pytest.raises(DatasetError, match="3: column `custom_id`: `1` stands in an earlier row"):
        check(text, name="x.jsonl")
    assert check('{"id": null, "prompt": "a"}\n{"prompt": "b"}\n', name="x.jsonl") == [
        ['[null,"a"]', '[null,"b"]']
    ]


@pytest.mark.parametrize(
    ("text", "reason"), [("prompt\n", "has no rows"), ("prompt\n \n", "column `prompt` is empty")]
)
def test_a_dataset_without_rows(check, text, reason):
    with pytest.raises(DatasetError, match=reason):
        check(text)
    with pytest.raises(DatasetError, match="has no row"):
        check(text, skip=[])


def test_a_missing_column_is_told_once(check, tmp_path):
    with pytest.raises(SpecError, match="no column `prompt`") as caught:
        check("id,text\n" * 100)
    assert str(caught.value).startswith(f"{tmp_path / 'data.csv'}: no column `prompt`; there are `id`, `text`")
    assert "--prompt-column" in caught.value.hint
    with pytest.raises(SpecError, match="no column `prompt`"):
        check('{"id": 1, "text": "x"}\n' * 100, name="x.jsonl")


def test_the_only_column_stays_the_prompt_column_when_others_appear(check):
    (batch,) = check('{"q": "a"}\n{"q": "b", "note": 1}\n', name="x.jsonl")
    assert batch == ['["a"]', '["b",1]']


def test_a_row_without_the_prompt_key_is_left_out_alone(check):
    skipped = []
    text = '{}\n{"id": 1, "text": "x"}\n{"prompt": "a"}\n{"id": 2}\n'
    assert check(text, name="x.jsonl", skip=skipped) == [['[null,null,"a"]']]
    assert [line for line, _, _ in skipped] == [1, 2, 4]
    assert skipped[1][1].startswith("no column `prompt`; there are `id`, `text`; name the column with")


def test_rows_of_chat_turns_and_of_prompts_mix(check):
    text = '{"messages": [{"role": "user", "content": "a"}]}\n{"prompt": "b"}\n{"x": 1}\n'
    with pytest.raises(DatasetError) as caught:
        check(text, name="x.jsonl")
    assert [problem.line for problem in caught.value.problems] == [3]


cells = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.lists(cells))
def test_cells_come_back_from_their_json(row):
    assert json.loads(encode_cells(row)) == row


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), name=st.sampled_from(["f.csv", "f.jsonl", "f.txt"]), skip=st.booleans())
def test_any_bytes_are_read_or_refused_with_a_reason(tmp_path_factory, data, name, skip):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(b"prompt,x\n" + data if name == "f.csv" else data)
    rejected, rows, refusal = [], [], ""
    try:
        with open_dataset(str(path)) as dataset:
            spec = settle(GenerationSpec(), dataset, skip_bad_rows=skip)
            on_bad = (lambda problem, raw: rejected.append(problem)) if skip else None
            rows = [row.cells for batch in checked_rows(dataset, spec, on_bad=on_bad) for row in batch]
    except EndmarkError as error:
        refusal = str(error)
    assert bool(rows) != bool(refusal)
    assert all(isinstance(json.loads(row), list) and row.encode() for row in rows)
    assert all(problem.line > 0 and problem.reason for problem in rejected)


@pytest.mark.parametrize(
    ("total", "size"),
    [(1, 16), (16_000, 16), (16_001, 17), (500_000, 500), (1_000_000, 1000), (10_000_000, 1000)],
)
def test_shard_sizes(total, size):
    assert shard_size(total) == size


def test_text_of_another_encoding_is_told_how_to_convert(tmp_path):
    """Excel's CSV in Latin-1 was to be "corrected", line by line."""
    path = tmp_path / "x.csv"
    path.write_bytes("id;prompt\n1;Größe\n".encode("latin-1"))
    with open_dataset(str(path)) as dataset, pytest.raises(DatasetError) as caught:
        list(checked_rows(dataset, GenerationSpec()))
    assert "iconv -f WINDOWS-1252 -t UTF-8" in caught.value.hint
