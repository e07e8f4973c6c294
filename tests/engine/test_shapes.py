"""Answers in a given shape: read, refused with the place, kept to by the masks, and judged."""

import csv
import json
from pathlib import Path

import pytest

from endmark.client.engine import Engine
from endmark.client.options import parse_options
from endmark.jobs.datasets.openai import request_columns
from endmark.jobs.errors import SpecError
from endmark.jobs.prompts import PromptPlan
from endmark.jobs.shapes import Shape, ShapeKind, read_shape
from endmark.jobs.shapes.grammar import grammar_of
from endmark.jobs.shapes.matching import accepts
from endmark.jobs.shapes.validity import is_valid
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import EosSource, FinishReason

pytestmark = pytest.mark.engine

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPTS = ["Describe Paris.", "Why is the sky blue?", "Name a fruit.", "Write a poem."]


@pytest.fixture(scope="module")
def demo():
    return Engine()


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("json_schema", "{", "the schema cannot be read: Expecting property name"),
        ("json_schema", {"$schema": True}, "is malformed at `#`"),
        ("json_schema", {"const": 2**70}, "the number 1180591620717411303424 is too large"),
        ("json_schema", '{"const": 1e400}', "has the number 1e400, which is too large"),
        ("json_schema", {"const": float("nan")}, "`NaN` is no JSON number"),
        ("json_schema", "[]", "the schema is not a JSON object"),
        ("json_schema", {"properties": {"a": {"type": 3}}}, "is malformed at `#/properties/a/type`"),
        ("json_schema", {"items": {"not": {}}}, "`not` is not supported, at `#/items`"),
        (
            "json_schema",
            {"properties": {"a/b": {"type": "array", "uniqueItems": True}}},
            "`uniqueItems` is not supported, at `#/properties/a~1b`",
        ),
        (
            "json_schema",
            {"$defs": {"q": {"if": {}}}, "properties": {"a": {"$ref": "#/$defs/q"}}},
            "`if` is not supported, at `#/$defs/q`",
        ),
        ("json_schema", {"$ref": "https://example.com/s"}, "cannot be kept"),
        ("json_schema", {"x-guidance": {"lenient": True}}, "which Endmark sets itself"),
        ("regex", "(a", "is no regular expression: missing )"),
        ("regex", "a(?=b)", "look-around"),
        ("choices", "a,,b", "a label is empty"),
        ("choices", "a,b,a", "a label stands twice: `a`"),
        ("choices", ",".join(map(str, [*range(150), 7])), "a label stands twice"),
        ("choices", '["a"', "is not a JSON array of labels"),
        ("choices", "a", "has 1 label: must be"),
        ("grammar", 'start: "a" foo', 'unknown name: "foo"'),
        ("grammar", " ", "is empty"),
    ],
)
def test_a_shape_that_cannot_be_kept_is_refused_with_the_place(kind, text, said):
    text = text if isinstance(text, str) else json.dumps(text)
    with pytest.raises(SpecError) as caught:
        read_shape(ShapeKind(kind), text, "column `x`")
    assert str(caught.value).startswith("column `x`")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "good", "bad"),
    [
        (
            Shape(ShapeKind.JSON_SCHEMA, json.dumps(PERSON)),
            ['{"name": "A", "age": 3}'],
            ['{"name": "A"}', "{", ""],
        ),
        (Shape(ShapeKind.JSON_SCHEMA, '{"type": "number"}'), ["1e5", "-0.5"], ["NaN", "Infinity", "01", "1 2"]),
        (Shape(ShapeKind.REGEX, r"[a-z]+\d"), ["ab1"], ["ab", "ab1 ", "xab12"]),
        (Shape(ShapeKind.CHOICES, '["yes", "no"]'), ["yes", "no"], ["ye", "yes ", ""]),
        (Shape(ShapeKind.GRAMMAR, 'start: "a" n\nn: /[0-9]{2}/'), ["a12"], ["a1", "a123", "b12"]),
    ],
)
def test_a_text_is_valid_as_a_whole_or_not_at_all(shape, good, bad):
    assert all(is_valid(shape, text) for text in good)
    assert not any(is_valid(shape, text) for text in bad)


def test_a_spec_with_a_shape_is_stored_and_read_and_one_without_says_nothing_of_it():
    """A worker of before, which knows no shapes, still reads the jobs that have none."""
    spec, _ = parse_options({"model": "demo", "json_schema": PERSON})
    assert spec.shape == Shape(ShapeKind.JSON_SCHEMA, json.dumps(PERSON, ensure_ascii=False))
    assert GenerationSpec.from_json(spec.to_json()) == spec
    assert "shape" not in json.loads(GenerationSpec(model="demo").to_json())
    with pytest.raises(SpecError, match="does not know the shape"):
        GenerationSpec.from_json(spec.to_json().replace('"kind": "json_schema"', '"kind": "sonnet"'))


def test_options_name_a_file_or_are_the_shape_itself(tmp_path):
    path = tmp_path / "person.json"
    path.write_text(json.dumps(PERSON))
    by_file, _ = parse_options({"model": "demo", "json_schema": str(path)})
    assert json.loads(by_file.shape.text) == PERSON
    with pytest.raises(SpecError, match="there is no file"):
        parse_options({"model": "demo", "json_schema": str(tmp_path / "none.json")})
    with pytest.raises(SpecError, match="`--regex` and `--choices` exclude each other"):
        parse_options({"model": "demo", "regex": "a", "choices": "a,b"})


def test_a_row_has_a_shape_of_its_own():
    plan = PromptPlan(("prompt", "choices", "json_schema"), GenerationSpec())
    assert plan.read(["Hi", "yes,no"]).overrides == {"shape": Shape(ShapeKind.CHOICES, '["yes", "no"]')}
    assert plan.read(["Hi", None, PERSON]).overrides["shape"].kind is ShapeKind.JSON_SCHEMA
    assert plan.read(["Hi"]).overrides == {}
    with pytest.raises(SpecError, match="another column gives the row a shape already"):
        plan.read(["Hi", "yes,no", PERSON])
    with pytest.raises(SpecError, match=r"column `json_schema`: .* at `#/items`"):
        plan.read(["Hi", None, {"items": {"not": {}}}])


def test_requests_of_a_batch_file_have_a_response_format():
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    for given, schema in (
        (wanted, PERSON),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "text"}, None),
    ):
        request = {"custom_id": "a", "body": {**body, "response_format": given}}
        assert request_columns(request)["json_schema"] == schema


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "shape",
    [
        {"json_schema": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}},
        {"regex": r"[a-z]{3,9} [0-9]{2}"},
        {"choices": ["yes", "no", "perhaps"]},
        {"grammar": 'start: "a" n\nn: /[0-9]{2}/'},
    ],
)
def test_answers_are_whole_values_of_their_shape(demo, shape, temperature):
    answers = demo.generate(PROMPTS, max_new_tokens=120, temperature=temperature, seed=1, **shape)
    assert [answer.valid for answer in answers] == [True] * len(PROMPTS), [answer.text for answer in answers]
    assert all(answer.complete and answer.verdict.finish_reason is FinishReason.EOS for answer in answers)


def test_rows_without_a_shape_are_as_they_are_alone(demo):
    """In one batch with rows that have one; a bad one fails alone."""
    plain = demo.generate(PROMPTS, max_new_tokens=24)
    rows = [{"prompt": prompt, "choices": "yes,no" if at % 2 else None} for at, prompt in enumerate(PROMPTS)]
    mixed = demo.generate(rows, max_new_tokens=24)
    assert [answer.text for answer in mixed[::2]] == [answer.text for answer in plain[::2]]
    assert [answer.valid for answer in mixed] == [None, True, None, True]
    assert {answer.text for answer in mixed[1::2]} <= {"yes", "no"}
    words = [[label] for label in ("yes", "no")]
    bad = demo.generate([{**rows[1], "bad_words": words[0]}, {**rows[1], "bad_words": ["yes", "no", "y", "n"]}])
    assert (bad[0].text, bad[0].valid) == ("no", True)
    assert bad[1].verdict.finish_reason is FinishReason.ERROR


def test_white_space_has_an_end_and_no_end_token_comes_before_the_value_is_whole(demo):
    """Models that were not trained for it write white space to the end of their budget."""
    answers = demo.generate(PROMPTS, max_new_tokens=60, json_schema=PERSON)
    for answer in answers:
        assert not any(" " * 9 in answer.text.replace(space, " ") for space in "\n\t\r")
        assert answer.valid
        assert answer.verdict.eos_source in (EosSource.NATURAL, EosSource.FORCED)


def test_the_example_of_the_docs(demo):
    schema = json.loads((EXAMPLES / "review.schema.json").read_text(encoding="utf-8"))
    with (EXAMPLES / "reviews.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answers = demo.generate(rows, json_schema=schema, template="{review}", max_new_tokens=60)
    assert len(answers) == 8
    assert all(answer.valid for answer in answers)
    assert {answer["mood"] for answer in map(json.loads, (item.text for item in answers))} <= {
        "good",
        "mixed",
        "bad",
    }


def test_digits_are_those_of_ascii():
    """llguidance let digits follow that are newer than Python's `re`, and such answers were never valid."""
    grammar = grammar_of(Shape(ShapeKind.REGEX, r"\d[^\d]\w/\\d"))
    assert accepts(grammar, "1aü/\\d".encode())
    assert not accepts(grammar, "\U0001e4f0aü/\\d".encode())


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        ("Z", True),
        (".5Z", True),
        (".123456789Z", True),
        (".25+02:00", True),
        ("-02:30", True),
        (f".{'18' * 5}Z", False),
    ],
)
def test_moments_are_no_finer_than_nanoseconds(end, kept):
    """A small model wrote `11:12:32.18121818…` until its budget was spent: the format has digits for ever."""
    shape = read_shape(ShapeKind.JSON_SCHEMA, '{"type": "string", "format": "date-time"}', "schema")
    assert accepts(grammar_of(shape), f'"2024-02-29T10:00:00{end}"'.encode()) is kept


@pytest.mark.parametrize("kind", ["date", "date-time"])
def test_dates_have_a_year_that_there_is(kind):
    """The shortest way to a date wrote `0000-01-01`, which Python refuses as one; 60 new schemas showed it."""
    inner = {"type": "string", "format": kind}
    constant = {"const": {"format": "date", "of": "no schema"}}
    schema = {"type": "object", "properties": {"day": inner, "list": {"items": inner}, "constant": constant}}
    grammar = grammar_of(read_shape(ShapeKind.JSON_SCHEMA, json.dumps(schema), "schema"))
    rest = "T00:00:00Z" if kind == "date-time" else ""
    for year, kept in (("2024", True), ("0001", True), ("0990", True), ("0000", False)):
        for value in ({"day": f"{year}-01-31{rest}"}, {"list": [f"{year}-01-31{rest}"]}):
            assert accepts(grammar, json.dumps(value, separators=(",", ":")).encode()) is kept
    assert accepts(grammar, ('{"constant":' + json.dumps(constant["const"], separators=(",", ":")) + "}").encode())
