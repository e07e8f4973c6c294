"""Options that contradict each other are refused before anything is stored; those without effect are told."""

import json
from dataclasses import replace

import pytest

from endmark.cli.export import tell_left_out
from endmark.jobs.conflicts import consistent, without_effect
from endmark.jobs.datasets import checked_rows, open_dataset
from endmark.jobs.datasets.rows import RowsDataset
from endmark.jobs.errors import DatasetError, SpecError
from endmark.jobs.sampling import Sampling
from endmark.jobs.shapes import Shape, ShapeKind
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies

pytestmark = pytest.mark.unit


def spec(strategy="baseline", least=0, **values):
    return GenerationSpec(
        strategies=build_strategies([strategy]), sampling=Sampling(min_new_tokens=least), **values
    )


LABELS = Shape(ShapeKind.CHOICES, '["yes", "no"]')


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (spec(least=21, max_new_tokens=20), "min_new_tokens is 21 and max_new_tokens 20"),
        # The last token of the budget is the end that `deadline` forces: the 19 before it are the most.
        (spec("deadline", least=20, max_new_tokens=20), "`deadline` ends each answer within max_new_tokens, 20"),
        (spec("eos-reward", least=20, max_new_tokens=20), "`eos-reward` ends each answer within"),
        (spec(shape=LABELS, least=1), "choices end where a label ends"),
        (spec("think", thinking_marks="none"), "`think` needs a model that thinks"),
    ],
)
def test_options_of_which_one_forbids_the_other_are_refused(asked, said):
    with pytest.raises(SpecError, match=said) as caught:
        consistent(asked)
    assert caught.value.hint


@pytest.mark.parametrize(
    "asked",
    [
        spec(least=20, max_new_tokens=20),
        spec("deadline", least=19, max_new_tokens=20),
        spec("whole", least=20, max_new_tokens=20),
        spec(shape=LABELS),
        spec(shape=Shape(ShapeKind.REGEX, "a+"), least=1),
        spec("think", thinking_marks="<a>,</a>"),
        spec(template="{a}", prompt_column="a"),
    ],
)
def test_what_goes_together_is_taken(asked):
    assert consistent(asked) is asked


def test_a_row_that_contradicts_itself_or_the_job_is_told_with_file_and_line(tmp_path):
    """`min_new_tokens` above `max_new_tokens` was taken in silence, and every such answer was cut."""
    path = tmp_path / "rows.csv"
    path.write_text(
        "prompt,min_new_tokens,max_new_tokens,strategy\na,,,\nb,30,20,\nc,300,,\nd,300,400,\ne,256,,deadline\n"
    )
    with open_dataset(str(path)) as dataset, pytest.raises(DatasetError) as caught:
        list(checked_rows(dataset, GenerationSpec()))
    found = [(problem.source, problem.line, problem.reason.partition(":")[0]) for problem in caught.value.problems]
    assert found == [
        (str(path), 3, "min_new_tokens is 30 and max_new_tokens 20"),
        (str(path), 4, "min_new_tokens is 300 and max_new_tokens 256"),
        (
            str(path),
            6,
            "`deadline` ends each answer within max_new_tokens, 256, and min_new_tokens, 256, forbids that; "
            "min_new_tokens may be 255 at most",
        ),
    ]


def test_a_job_that_contradicts_itself_is_refused_before_a_row_is_read():
    with RowsDataset(["a"]) as dataset, pytest.raises(SpecError, match="cannot have both"):
        next(checked_rows(dataset, spec(least=2, max_new_tokens=1)))


def test_a_request_of_a_batch_file_with_less_budget_than_the_job_wants_is_told_by_its_line(tmp_path):
    path = tmp_path / "batch.jsonl"
    body = {"model": "demo", "messages": [{"role": "user", "content": "a"}]}
    lines = [{"custom_id": str(budget), "body": {**body, "max_tokens": budget}} for budget in (8, 7)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with open_dataset(str(path)) as dataset, pytest.raises(DatasetError) as caught:
        list(checked_rows(dataset, spec(least=8)))
    assert [problem.line for problem in caught.value.problems] == [2]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"stop": ""}, "holds an empty text"),
        ({"stop": ["a", ""]}, "holds an empty text"),
        ({"stop": False}, "not text"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(tmp_path, body, said):
    path = tmp_path / "batch.jsonl"
    turns = [{"role": "user", "content": "a"}]
    path.write_text(json.dumps({"custom_id": "1", "body": {"model": "demo", "messages": turns, **body}}))
    with open_dataset(str(path)) as dataset, pytest.raises(DatasetError, match=said):
        list(checked_rows(dataset, GenerationSpec()))


DRAWN = Sampling(temperature=1.0)


@pytest.mark.parametrize(
    ("asked", "own_seed", "said"),
    [
        (spec(template="{a}", prompt_column="b"), False, "whatever `--prompt-column b` names"),
        (spec(samples=2), False, "all alike at temperature 0"),
        (replace(spec(samples=2), sampling=DRAWN), False, None),
        (replace(spec(), sampling=Sampling(top_p=0.9, seed=3)), False, "whatever `top_p` may be"),
        # What `whole` takes back it draws at a temperature of its own.
        (replace(spec("whole"), sampling=Sampling(top_p=0.9)), False, None),
        (replace(spec(dedupe=True), sampling=DRAWN), False, "answers each row that is drawn at random"),
        (replace(spec(dedupe=True), sampling=DRAWN), True, None),
        (replace(spec(dedupe=True, samples=2), sampling=DRAWN), True, "answers each row that is drawn at random"),
        (spec(dedupe=True), False, None),
    ],
)
def test_what_is_without_effect_is_told(asked, own_seed, said):
    found = list(without_effect(asked, own_seed=own_seed))
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_what_is_without_effect_is_told_once_with_its_rows():
    rows = [{"prompt": "a", "seed": 1}, {"prompt": "b"}, {"prompt": "c", "temperature": 0}, {"prompt": "d"}]
    with RowsDataset(rows) as dataset:
        list(checked_rows(dataset, replace(spec(dedupe=True), sampling=DRAWN)))
        told = [text for text in dataset.notes.texts() if "--dedupe" in text]
    assert told == [
        "`--dedupe` answers each row that is drawn at random, but for those with a seed of their own "
        "(2 rows, first in line 2)"
    ]


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("out.csv", True),
        ("-", True),
        ("s3://here/out.parquet", True),
        ("out.jsonl.gz", False),
        ("s3://here/out.jsonl?a=b.csv", False),
    ],
)
def test_a_file_that_leaves_out_what_was_asked_for_is_told(capsys, output, told):
    tell_left_out(spec(), output)
    assert capsys.readouterr().err == ""
    tell_left_out(spec(logprobs=2), output)
    assert ("leaves out the log probabilities" in capsys.readouterr().err) == told
