"""From the cells of a row to what it asks for: its prompt or chat turns, and its overrides of the job's spec.

The same plan checks rows when they are submitted and reads them again in the worker, so that both agree.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from endmark.jobs.errors import SpecError
from endmark.jobs.spec import OVERRIDES, STRUCTURED, GenerationSpec, parse_override
from endmark.jobs.spelling import nearest

DEFAULT_PROMPT = "prompt"  # the column of a spec that names none of its own
MESSAGES = "messages"  # the column of chat turns
ID_COLUMNS = ("id", "custom_id")
_NO_PROMPT = frozenset((*ID_COLUMNS, *OVERRIDES, MESSAGES))  # never taken for the prompt unless named
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SHOWN = 20  # columns that a message names
_CACHE_SIZE = 4096  # distinct override texts kept


class Turn(TypedDict):
    """One turn of a chat."""

    role: str  # `system`, `user` or `assistant`
    content: str


@dataclass(frozen=True, slots=True)
class RowRequest:
    """What a row asks for: a prompt or chat turns, one of the two."""

    prompt: str | None
    turns: tuple[Turn, ...] | None
    overrides: dict[str, Any]  # as `GenerationSpec.with_overrides` takes them


def find_prompt_column(columns: Sequence[str], spec: GenerationSpec) -> str | None:
    """Return the column that holds the prompts, or None if a template or chat turns make them.

    It is the one that the spec names; where it names none of its own, the only column that there is will do.

    Raises:
        SpecError: the column, or one that the template names, is not there.
    """
    shown = [f"`{column}`" for column in columns[:_SHOWN]]
    more = [f"and {len(columns) - _SHOWN:,} more"] if len(columns) > _SHOWN else []
    listed = ", ".join(shown + more) or "none"
    if spec.template is not None:
        for name in template_columns(spec.template):
            if name not in columns:
                raise SpecError(
                    f"the template names the column `{name}`; there are {listed}",
                    hint=nearest(name, columns, "write `{{` and `}}` for braces that are meant as text"),
                )
        return None
    if spec.prompt_column in columns:
        return spec.prompt_column
    if MESSAGES in columns:
        return None
    if spec.prompt_column == DEFAULT_PROMPT and len(columns) == 1 and columns[0] not in _NO_PROMPT:
        return columns[0]
    near = nearest(spec.prompt_column, columns, "")
    raise SpecError(
        f"no column `{spec.prompt_column}`; there {'is' if len(columns) == 1 else 'are'} {listed}",
        hint=(f"{near} " if near else "") + "name the column with `--prompt-column`, or use `--template`",
    )


class PromptPlan:
    """How the rows of one dataset are read, worked out once.

    Raises:
        SpecError: the columns that the spec needs are not there.
    """

    def __init__(self, columns: Sequence[str], spec: GenerationSpec) -> None:
        self._width = len(columns)
        column = find_prompt_column(columns, spec)
        template_names = template_columns(spec.template) if spec.template is not None else ()
        self._raw = spec.raw
        self._strategies = spec.strategies
        self._column = column or MESSAGES  # that a row must fill
        self._prompt = columns.index(column) if column is not None else None
        self._template = _Template(spec.template, columns) if spec.template is not None else None
        self._messages = columns.index(MESSAGES) if MESSAGES in columns and not template_names else None
        # A column that makes the prompt is text: a template on `temperature` does not set the temperature.
        self._overrides = tuple(
            (index, name)
            for index, name in enumerate(columns)
            if spec.row_options and name in OVERRIDES and name != column and name not in template_names
        )
        self._parsed: dict[tuple[str, str], tuple[str, Any]] = {}

    def read(self, cells: Sequence[Any]) -> RowRequest:
        """Return what the row asks for. Cells are text or JSON values; missing ones at the end count as null.

        Raises:
            SpecError: the row cannot be used; the message says why.
        """
        if len(cells) < self._width:
            cells = (*cells, *(None,) * (self._width - len(cells)))
        overrides = self._read_overrides(cells) if self._overrides else {}
        if self._template is not None:
            return RowRequest(self._template.fill(cells), None, overrides)
        prompt = cells[self._prompt] if self._prompt is not None else None
        if prompt is None and self._messages is not None and cells[self._messages] is not None:
            return RowRequest(None, self._read_turns(cells[self._messages]), overrides)
        if type(prompt) is not str:
            raise SpecError(f"column `{self._column}` " + ("is missing" if prompt is None else "is not text"))
        if not prompt or prompt.isspace():
            raise SpecError(f"column `{self._column}` is empty")
        return RowRequest(prompt, None, overrides)

    def prompts(self, rows: Sequence[Sequence[Any]]) -> Sequence[str] | None:
        """Return the prompts of rows that hold text alone, as `read` would, or None: then each is to be read."""
        if self._overrides:
            return None
        if self._template is not None:
            try:
                return list(map(self._template.fill, rows))
            except SpecError:
                return None
        place = self._prompt
        if place is None:
            return None
        prompts = [cells[place] for cells in rows]
        return prompts if all(prompts) and not any(map(str.isspace, prompts)) else None

    def _read_overrides(self, cells: Sequence[Any]) -> dict[str, Any]:
        """Return the row's own values; an empty cell leaves the job's."""
        found: dict[str, Any] = {}
        for index, column in self._overrides:
            cell = cells[index]
            if cell is None or cell == "":
                continue
            if isinstance(cell, bool) or (isinstance(cell, list | dict) and column not in STRUCTURED):
                raise SpecError(f"column `{column}`: `{as_text(cell)}` cannot be used")
            text = as_text(cell) if isinstance(cell, list | dict) else str(cell)
            parsed = self._parsed.get((column, text))
            if parsed is None:
                if text.isspace():
                    continue
                if len(self._parsed) >= _CACHE_SIZE:
                    self._parsed.clear()
                parsed = self._parsed[column, text] = parse_override(column, text, self._strategies)
            if parsed[0] == "shape" and "shape" in found:
                raise SpecError(f"column `{column}`: another column gives the row a shape already")
            found[parsed[0]] = parsed[1]
        return found

    def _read_turns(self, cell: Any) -> tuple[Turn, ...]:  # noqa: ANN401 - any JSON value
        """Return the chat turns of a `messages` cell."""
        turns = read_turns(cell, "user", "assistant")
        if self._raw and len(turns) > 1:
            raise SpecError("chat turns need the chat template that `--raw` leaves out")
        return turns


def read_turns(cell: Any, *last: str) -> tuple[Turn, ...]:  # noqa: ANN401 - any JSON value
    """Return the chat turns that a list of `{"role", "content"}` objects, or its JSON text, stands for.

    Raises:
        SpecError: it is not such a list, or its last turn is of none of the roles `last`.
    """
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"column `{MESSAGES}` is not JSON: {error}") from error
    if not isinstance(cell, list) or not cell:
        raise SpecError(f"column `{MESSAGES}` is not a list of chat turns")
    turns = tuple(_turn(number, item) for number, item in enumerate(cell, start=1))
    if turns[-1]["role"] not in last:
        wanted = "` or `".join(last)
        raise SpecError(f"column `{MESSAGES}`: the last turn is of `{turns[-1]['role']}`, not of `{wanted}`")
    if len(turns) == 1 and "user" in last and turns[0]["role"] == "assistant":
        raise SpecError(f"column `{MESSAGES}`: no turn of `user` before the one that is to be gone on from")
    return turns


def _turn(number: int, item: Any) -> Turn:  # noqa: ANN401 - any JSON value
    """Check one chat turn."""
    where = f"column `{MESSAGES}`, turn {number}"
    if not isinstance(item, dict):
        raise SpecError(f"{where}: not an object with `role` and `content`")
    role = item.get("role")
    try:
        content = turn_text(item)
    except ValueError as error:
        raise SpecError(f"{where}: {error}") from error
    if role not in ("system", "user", "assistant"):
        raise SpecError(f"{where}: the role is {json.dumps(role)}, not `system`, `user` or `assistant`")
    if role == "system" and number > 1:
        raise SpecError(f"{where}: only the first turn may be of `system`")
    if not isinstance(content, str):
        raise SpecError(f"{where}: the content is not text")
    if not content.strip():
        raise SpecError(f"{where}: the content is empty")
    return Turn(role=role, content=content)


def turn_text(turn: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    """Return the content of a chat turn, its parts of text joined, as OpenAI's API has them.

    Raises:
        ValueError: the turn holds what is no text, such as an image or a call of a tool.
    """
    for name in ("tool_calls", "function_call"):
        if turn.get(name):
            raise ValueError(f"`{name}` is not supported: turns are text alone")
    content = turn.get("content")
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            named = f"of type `{kind}`" if isinstance(kind, str) else "without a type"
            raise ValueError(f"a part {named} is not supported: turns are text alone")
    return "".join(part["text"] for part in content)


def template_columns(template: str) -> tuple[str, ...]:
    """Return the columns that a template names, each once.

    Raises:
        SpecError: it names none, or has a brace that stands alone.
    """
    names: dict[str, None] = {}
    for match in _FIELD.finditer(template):
        if match[0] in "{}" or match[0] == "{}":
            raise SpecError(
                f"template `{template}`: `{match[0]}` names no column",
                hint="name a column in braces, as in `Summarise: {text}`; write `{{` and `}}` for plain braces",
            )
        if match[1] is not None:
            names[match[1]] = None
    if not names:
        raise SpecError(f"template `{template}` names no column", hint="for example `Summarise: {text}`")
    return tuple(names)


class _Template:
    """A template whose columns have been found."""

    def __init__(self, template: str, columns: Sequence[str]) -> None:
        position = 0
        self._parts: list[str | int] = []  # plain text, or the column to put there
        for match in _FIELD.finditer(template):
            self._parts.append(template[position : match.start()])
            self._parts.append(columns.index(match[1]) if match[1] is not None else match[0][0])
            position = match.end()
        self._parts.append(template[position:])
        self._used = tuple(part for part in self._parts if isinstance(part, int))
        self._columns = tuple(columns)

    def fill(self, cells: Sequence[Any]) -> str:
        """Return the prompt of one row."""
        for index in self._used:
            if cells[index] is None:
                raise SpecError(f"column `{self._columns[index]}` is missing")
        texts = {index: as_text(cells[index]) for index in self._used}
        if not any(text.strip() for text in texts.values()):
            raise SpecError("every column that the template names is empty")
        return "".join(part if isinstance(part, str) else texts[part] for part in self._parts)


def as_text(cell: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a cell as text: strings as they are, other values as JSON."""
    return cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
