"""Datasets to train on, in their three forms, and what is said of rows that are of none."""

import json

import pytest

from endmark.jobs.errors import DatasetError, SpecError, UsageError
from endmark.jobs.finetuning.chats import read_chats
from endmark.jobs.finetuning.request import FinetuneProgress, FinetuneSpec

pytestmark = pytest.mark.unit


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def told(chat):
    return [(turn["role"], turn["content"]) for turn in chat.turns]


def test_chat_turns(tmp_path):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Goodbye."},
    ]
    path = write(tmp_path, "chats.jsonl", "\n" + json.dumps({"id": 1, "messages": turns}) + "\n")
    (chat,) = read_chats(path)
    assert list(chat.turns) == turns
    assert chat.line == 2


@pytest.mark.parametrize("column", ["answer", "response", "completion", "output"])
def test_prompts_with_answers(tmp_path, column):
    path = write(tmp_path, "pairs.csv", f'topic,prompt,{column}\nx,Hi,"Hello,\nyou."\ny,Bye,Goodbye.\n')
    chats = read_chats(path)
    assert [told(chat) for chat in chats] == [
        [("user", "Hi"), ("assistant", "Hello,\nyou.")],
        [("user", "Bye"), ("assistant", "Goodbye.")],
    ]
    assert [chat.line for chat in chats] == [2, 4]


def test_columns_of_other_names(tmp_path):
    path = write(tmp_path, "pairs.csv", "messages,question,reply\n-,Hi,Hello.\n")
    (chat,) = read_chats(path, prompt_column="question", answer_column="reply")
    assert told(chat) == [("user", "Hi"), ("assistant", "Hello.")]


def test_guanaco_text_runs_together_and_may_end_in_a_question(tmp_path):
    text = "### Human: What is *new*?\n#### Human: no### Assistant: Nothing.\n\nReally."
    text += "### Human: Sure?### Assistant: Yes."
    unanswered = ("### Human: And then?", "### Human: And then?### Assistant:", "")
    rows = [{"text": text + more} for more in unanswered]
    path = write(tmp_path, "guanaco.jsonl", "\n".join(map(json.dumps, rows)))
    first, second, third = read_chats(path)
    assert first.turns == second.turns == third.turns
    assert told(first) == [
        ("user", "What is *new*?\n#### Human: no"),
        ("assistant", "Nothing.\n\nReally."),
        ("user", "Sure?"),
        ("assistant", "Yes."),
    ]


def test_every_bad_row_is_named_by_its_line(tmp_path):
    def chat(*roles):
        return json.dumps({"messages": [{"role": role, "content": "x"} for role in roles]})

    rows = [chat("user", "assistant"), chat("user"), chat("user", "user", "assistant"), "{", chat("assistant")]
    path = write(tmp_path, "chats.jsonl", "\n".join(rows))
    with pytest.raises(DatasetError) as caught:
        read_chats(path)
    lines = str(caught.value).splitlines()
    assert [line.removeprefix(path).split(": ")[0] for line in lines] == [":2", ":3", ":4", ":5"]
    assert lines[0].endswith("the last turn is of `user`, not of `assistant`")
    assert lines[1].endswith("turn 2 is of `user`, not of `assistant`")
    assert lines[3].endswith("turn 1 is of `assistant`, not of `user`")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt,answer\nHi,\n", ":2: column `answer` is empty"),
        ('text\n"### Assistant: x"\n', ":2: turn 1 is of `assistant`, not of `user`"),
        ("text\nhello\n", ":2: column `text` does not begin with `### Human:`"),
        ("text\n### Human: only asked\n", ":2: column `text` holds no answer"),
        ("prompt,answer\n", ": has no rows"),
    ],
)
def test_rows_that_teach_nothing(tmp_path, text, said):
    path = write(tmp_path, "data.csv", text)
    with pytest.raises(DatasetError) as caught:
        read_chats(path)
    assert str(caught.value) == path + said


def test_columns_of_no_form_are_listed_with_the_near_one(tmp_path):
    path = write(tmp_path, "data.csv", "promt,answer\na,b\n")
    with pytest.raises(SpecError, match="has the columns `promt`, `answer`") as caught:
        read_chats(path)
    assert caught.value.hint.startswith("did you mean `promt`?")
    with pytest.raises(UsageError, match="there is no file"):
        read_chats(path + "x")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("steps", 0, "steps is 0: must be from 1"),
        ("rank", -1, "rank is -1"),
        ("learning_rate", float("nan"), "learning_rate is nan"),
        ("dropout", 1.0, "dropout is 1: must be from 0 to less than 1"),
        ("max_length", 4, "max_length is 4: must be from 16"),
        ("output", "", "the output is empty"),
    ],
)
def test_a_wrong_number_is_refused_with_its_range(field, value, said):
    with pytest.raises(SpecError, match=said):
        FinetuneSpec(**{"dataset": "d", "output": "o", field: value})


def test_spec_and_progress_survive_the_way_through_json():
    spec = FinetuneSpec(dataset="ü.jsonl", output="o", packing=True, answer_column="reply")
    assert FinetuneSpec.from_json(spec.to_json()) == spec
    with pytest.raises(SpecError, match="another version"):
        FinetuneSpec.from_json('{"version": 1, "dataset": "d", "output": "o", "news": 1}')
    progress = FinetuneProgress("training", 3, 9, 0.5, 1.25, ("one", "two"))
    assert FinetuneProgress.from_json(progress.to_json()) == progress
    assert progress.without_notes(1).notes == ("two",)
