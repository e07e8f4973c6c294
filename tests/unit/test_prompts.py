"""What a row asks for, read from its cells."""

import json

import pytest

from endmark.jobs.errors import SpecError
from endmark.jobs.prompts import PromptPlan, find_prompt_column
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies

pytestmark = pytest.mark.unit

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def plan(columns, **spec):
    return PromptPlan(columns, GenerationSpec(**spec))


def refusal(reader, *cells):
    with pytest.raises(SpecError) as caught:
        reader.read(cells)
    return str(caught.value)


def test_the_prompt_column():
    request = plan(("id", "prompt")).read(["7", "  What?\n"])
    assert request.prompt == "  What?\n"
    assert request.turns is None
    assert request.overrides == {}


def test_another_prompt_column():
    assert plan(("prompt", "question"), prompt_column="question").read(["a", "b"]).prompt == "b"


def test_the_only_column_serves():
    assert plan(("question",)).read(["b"]).prompt == "b"


@pytest.mark.parametrize("column", ["id", "seed"])
def test_an_only_column_with_a_meaning_of_its_own_does_not(column):
    with pytest.raises(SpecError, match=f"no column `prompt`; there is `{column}`"):
        plan((column,))


def test_a_missing_column_names_what_there_is_and_the_nearest():
    with pytest.raises(SpecError) as caught:
        plan(("id", "Prompts"))
    assert str(caught.value) == "no column `prompt`; there are `id`, `Prompts`"
    assert "did you mean `Prompts`?" in caught.value.hint
    assert "--prompt-column" in caught.value.hint


@pytest.mark.parametrize("cell", ["", " \n\t"])
def test_an_empty_prompt_is_refused(cell):
    assert refusal(plan(("id", "prompt")), "1", cell) == "column `prompt` is empty"


def test_a_prompt_of_another_type_is_refused():
    assert refusal(plan(("id", "prompt")), 1, 5) == "column `prompt` is not text"
    assert refusal(plan(("id", "prompt")), 1, None) == "column `prompt` is missing"
    assert refusal(plan(("id", "prompt")), 1) == "column `prompt` is missing"


def test_a_template_is_filled_from_the_columns():
    reader = plan(("a", "b c"), template="{a} {{as text}} {b c}{a}")
    assert reader.read(["x", "y {a}"]).prompt == "x {as text} y {a}x"


def test_values_that_are_not_text_are_written_as_json():
    assert plan(("n", "tags"), template="{n}: {tags}").read([1.5, ["ä", True]]).prompt == '1.5: ["ä", true]'


def test_a_template_on_a_missing_column_names_the_columns():
    with pytest.raises(SpecError) as caught:
        plan(("text", "title"), template="Summarise: {txt}")
    assert str(caught.value) == "the template names the column `txt`; there are `text`, `title`"
    assert caught.value.hint == "did you mean `text`?"


@pytest.mark.parametrize("template", ["no column", "{", "a } b", "{}", "{a} {"])
def test_a_template_that_cannot_be_filled_is_refused(template):
    with pytest.raises(SpecError, match="names no column"):
        plan(("a",), template=template)


def test_a_template_of_empty_cells_is_refused():
    reader = plan(("a", "b"), template="{a}-{b}")
    assert reader.read(["", "x"]).prompt == "-x"
    assert refusal(reader, "", " ") == "every column that the template names is empty"
    assert refusal(reader, "x", None) == "column `b` is missing"


@pytest.mark.parametrize("cell", [CHAT, json.dumps(CHAT)])
def test_chat_turns(cell):
    request = plan(("messages", "id")).read([cell, "1"])
    assert request.prompt is None
    assert [dict(turn) for turn in request.turns] == CHAT


def test_the_prompt_column_comes_before_chat_turns():
    reader = plan(("messages", "prompt"))
    assert reader.read([CHAT, "x"]).prompt == "x"
    assert reader.read([CHAT]).turns is not None
    assert refusal(reader, CHAT, "") == "column `prompt` is empty"


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("[", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([], "not a list of chat turns"),
        ({"role": "user", "content": "x"}, "not a list of chat turns"),
        (["x"], "turn 1: not an object"),
        ([{"role": "tool", "content": "x"}], 'the role is "tool"'),
        ([{"content": "x"}], "the role is null"),
        ([{"role": ["user"], "content": "x"}], "the role is"),
        ([{"role": "user", "content": None}], "the content is not text"),
        ([{"role": "user", "content": " "}], "the content is empty"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "turn 1: a part of type `image_url` is not"),
        ([{"role": "user", "content": ["x"]}], "turn 1: a part without a type is not supported"),
        ([{"role": "assistant", "content": None, "tool_calls": [{}]}], "turn 1: `tool_calls` is not supported"),
        ([{"role": "assistant", "content": "x", "tool_calls": [{}]}], "turn 1: `tool_calls` is not supported"),
        ([{"role": "system", "content": "x"}], "the last turn is of `system`, not of `user` or `assistant`"),
        ([{"role": "assistant", "content": "x"}], "no turn of `user` before"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}], "only the first turn"),
    ],
)
def test_bad_chat_turns_are_refused(cell, reason):
    assert reason in refusal(plan(("messages",)), cell)


def test_parts_of_text_are_one_text():
    """Turns as OpenAI's clients write them, content in parts, ran from batch files and were refused elsewhere."""
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]
    turns = plan(("messages",)).read([[{"role": "user", "content": parts}]]).turns
    assert turns == ({"role": "user", "content": "Hi there"},)


def test_a_column_that_was_named_is_not_replaced_by_another():
    """`--prompt-column nope` ran the only other column that there was, with a note."""
    with pytest.raises(SpecError, match="no column `nope`; there is `text`"):
        plan(("text",), prompt_column="nope")
    assert plan(("text",)).read(["x"]).prompt == "x"


def test_raw_prompts_cannot_be_a_chat():
    reader = plan(("messages",), raw=True)
    assert reader.read([CHAT[1:]]).turns == ({"role": "user", "content": "Hello"},)
    assert "--raw" in refusal(reader, CHAT)


def test_overrides_are_read_by_their_columns():
    columns = ("prompt", "temperature", "max_new_tokens", "top_k", "top_p", "seed", "strategy")
    spec = GenerationSpec()
    request = PromptPlan(columns, spec).read(["x", "0.7", 40, 5, 0.9, "3", "soft-landing:start=0.4"])
    changed = spec.with_overrides(request.overrides)
    assert (changed.max_new_tokens, changed.sampling.temperature, changed.sampling.top_p) == (40, 0.7, 0.9)
    assert (changed.sampling.top_k, changed.sampling.seed) == (5, 3)
    assert changed.strategies == build_strategies(["soft-landing:start=0.4"])


def test_columns_may_be_data_instead_of_options():
    """A column of degrees, called `temperature`, became the sampling temperature."""
    reader = plan(["prompt", "temperature", "strategy"], row_options=False)
    assert reader.read(["Hi", "21.5", "warm"]).overrides == {}


def test_a_prompt_column_that_is_called_like_an_option_is_the_prompt():
    assert plan(["seed", "top_k"], prompt_column="seed").read(["7 seeds", "3"]).overrides == {"top_k": 3}


def test_the_temperature_of_a_row_is_at_most_two():
    assert plan(["prompt", "temperature"]).read(["Hi", "2"]).overrides == {"temperature": 2.0}
    assert refusal(plan(["prompt", "temperature"]), "Hi", "2.01").startswith(
        "temperature is 2.01: must be from 0 to 2"
    )


def test_empty_override_cells_leave_the_spec():
    reader = plan(("prompt", "temperature", "strategy", "seed"))
    assert reader.read(["x", "", " ", None]).overrides == {}


@pytest.mark.parametrize("cell", ["20", "20.0", 20, 20.0, " 20.00 "])
def test_a_whole_number_may_have_been_in_a_column_with_gaps(cell):
    """pandas makes 20.0 of 20 where another row has no value, in a frame and in the CSV that it writes."""
    reader = plan(("prompt", "max_new_tokens", "seed"))
    assert reader.read(["x", cell, cell]).overrides == {"max_new_tokens": 20, "seed": 20}


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        ("temperature", "warm", "`warm` is not a number"),
        ("temperature", "nan", "temperature is nan"),
        ("max_new_tokens", "0", "must be from 1"),
        ("max_new_tokens", "2.5", "`2.5` is not a whole number"),
        ("max_new_tokens", "20.", "`20.` is not a whole number"),
        ("top_k", ".0", "`.0` is not a whole number"),
        ("top_k", True, "`true` cannot be used"),
        ("seed", [1], "`[1]` cannot be used"),
        ("strategy", "softlanding", "unknown strategy `softlanding`"),
    ],
)
def test_bad_overrides_are_refused(column, cell, reason):
    reader = plan(("prompt", column))
    assert reason in refusal(reader, "x", cell)
    assert reason in refusal(reader, "x", cell)  # not remembered as read


def test_a_column_of_the_template_is_text_and_no_override():
    request = plan(("temperature", "seed"), template="It is {temperature} degrees.").read(["25.3", "4"])
    assert request.prompt == "It is 25.3 degrees."
    assert request.overrides == {"seed": 4}


def test_more_override_texts_than_are_kept():
    reader = plan(("prompt", "seed"))
    assert [reader.read(["x", str(seed)]).overrides["seed"] for seed in range(10_000)] == list(range(10_000))


def test_find_prompt_column():
    assert find_prompt_column(["a", "prompt"], GenerationSpec()) == "prompt"
    assert find_prompt_column(["a", "messages"], GenerationSpec()) is None
    assert find_prompt_column(["a", "prompt"], GenerationSpec(template="{a}")) is None
    with pytest.raises(SpecError, match="there are none"):
        find_prompt_column([], GenerationSpec())


def test_a_row_has_one_shape_and_other_options_beside_it():
    reader = plan(("prompt", "regex", "temperature", "choices"))
    assert (
        refusal(reader, "a", "x+", "0.5", "yes,no")
        == "column `choices`: another column gives the row a shape already"
    )
    found = reader.read(["a", "x+", "0.5", ""]).overrides
    assert (found["shape"].text, found["temperature"]) == ("x+", 0.5)
