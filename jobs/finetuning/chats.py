"""Training examples as chats: read from turns, from prompts with answers, or from `### Human:` text."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from endmark.jobs.datasets import Dataset, open_dataset
from endmark.jobs.errors import DatasetError, Problem, SpecError
from endmark.jobs.prompts import MESSAGES, Turn, read_turns
from endmark.jobs.spelling import nearest

ANSWER_COLUMNS = ("answer", "response", "completion", "output", "assistant")
TEXT = "text"  # the column of openassistant-guanaco
_SPEAKER = re.compile(r"(?<!#)### (Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_SHOWN = 20  # problems named in the error

Read = Callable[[Sequence[Any]], tuple[Turn, ...]]


@dataclass(frozen=True, slots=True)
class Chat:
    """One training example; its last turn is the assistant's."""

    turns: tuple[Turn, ...]
    line: int  # where it begins in the dataset


def read_chats(path: str, *, prompt_column: str = "prompt", answer_column: str | None = None) -> list[Chat]:
    """Read a dataset to train on; which form it has is told by its columns.

    Raises:
        UsageError: the file cannot be read.
        DatasetError: rows cannot be used, each named as file:line; or there is none.
        SpecError: the columns are those of no form.
    """
    chats: list[Chat] = []
    problems: list[Problem] = []
    with open_dataset(path) as dataset:
        read: Read | None = None
        width = -1
        for item in dataset:
            if isinstance(item, Problem):
                problems.append(item)
                continue
            line, cells = item
            if width != len(dataset.columns):
                width = len(dataset.columns)
                read = _reader(dataset, prompt_column, answer_column)
            assert read is not None
            try:
                chats.append(Chat(read(cells), line))
            except SpecError as error:
                problems.append(Problem(dataset.source, line, str(error)))
        source = dataset.source
    if problems:
        raise DatasetError(problems[:_SHOWN], len(problems), hint="fix these rows or take them out")
    if not chats:
        raise DatasetError([Problem(source, 0, "has no rows")], 1)
    return chats


def _reader(dataset: Dataset, prompt_column: str, answer_column: str | None) -> Read:
    """Return what reads a row of these columns.

    Raises:
        SpecError: they are those of no form.
    """
    columns = dataset.columns
    if MESSAGES in columns and answer_column is None:
        place = columns.index(MESSAGES)
        return lambda cells: _checked(read_turns(cells[place], "assistant"))
    answer = answer_column or next((name for name in ANSWER_COLUMNS if name in columns), None)
    if prompt_column in columns and answer in columns:
        places = columns.index(prompt_column), columns.index(answer)
        return lambda cells: _from_columns(cells, columns, *places)
    if TEXT in columns and answer_column is None:
        place = columns.index(TEXT)
        return lambda cells: _checked(_from_text(cells[place]))
    listed = ", ".join(f"`{name}`" for name in columns)
    wanted = prompt_column if prompt_column not in columns else answer_column
    near = nearest(wanted, columns, "") if wanted else ""
    raise SpecError(
        f"the dataset `{dataset.source}` has the columns {listed}: neither `{MESSAGES}`, nor"
        f" `{prompt_column}` with `{answer_column or ANSWER_COLUMNS[0]}`, nor `{TEXT}`",
        hint=(f"{near} " if near else "") + "name them with `--prompt-column` and `--answer-column`",
    )


def _from_columns(cells: Sequence[Any], columns: Sequence[str], prompt: int, answer: int) -> tuple[Turn, ...]:
    """Return a prompt and its answer as two turns."""
    for place in (prompt, answer):
        cell = cells[place]
        if not isinstance(cell, str) or not cell.strip():
            what = "is missing" if cell is None else "is empty" if isinstance(cell, str) else "is not text"
            raise SpecError(f"column `{columns[place]}` {what}")
    return Turn(role="user", content=cells[prompt]), Turn(role="assistant", content=cells[answer])


def _from_text(cell: Any) -> tuple[Turn, ...]:  # noqa: ANN401 - any JSON value
    """Return the turns of `### Human: … ### Assistant: …`; a last one without an answer is left out."""
    if not isinstance(cell, str):
        raise SpecError(f"column `{TEXT}` is not text")
    parts = _SPEAKER.split(cell)
    if len(parts) == 1 or parts[0].strip():
        raise SpecError(f"column `{TEXT}` does not begin with `### Human:`")
    turns = [
        Turn(role=_ROLES[speaker], content=content.strip())
        for speaker, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
    while turns and (turns[-1]["role"] == "user" or not turns[-1]["content"]):
        turns.pop()
    if not turns:
        raise SpecError(f"column `{TEXT}` holds no answer")
    return tuple(turns)


def _checked(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Refuse turns that do not alternate, which chat templates refuse or run together.

    Raises:
        SpecError: naming the turn.
    """
    begin = 1 if turns[0]["role"] == "system" else 0
    for number, turn in enumerate(turns[begin:], start=begin):
        wanted = "user" if (number - begin) % 2 == 0 else "assistant"
        if turn["role"] != wanted:
            raise SpecError(f"turn {number + 1} is of `{turn['role']}`, not of `{wanted}`")
        if not turn["content"]:
            raise SpecError(f"turn {number + 1} is empty")
    return turns
