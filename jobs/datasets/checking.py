"""One pass over a dataset: every row checked against the spec before any is queued."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, repeat
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from endmark.jobs.conflicts import RowConflicts, consistent
from endmark.jobs.datasets.base import AS_UTF8, NOT_UTF8, Block, Dataset, Line
from endmark.jobs.datasets.control import control_tokens
from endmark.jobs.datasets.seen import SeenIds
from endmark.jobs.errors import DatasetError, Problem, SpecError
from endmark.jobs.prompts import PromptPlan, RowRequest, as_text, find_prompt_column
from endmark.jobs.spec import OVERRIDES, GenerationSpec

BATCH = 2000  # rows handed over at once
_SHOWN = 20  # problems named in the error
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_ESCAPED = b'"\\' + bytes(range(32))  # what JSON cannot hold as it is
_WRITERS: Mapping[type, Callable[[Any], str]] = {str: encode_basestring, int: repr}


class NewRow(NamedTuple):
    """A row of a job that is to be stored: one answer to be."""

    cells: str  # JSON
    sample: int | None = None  # which answer of its prompt it is, from 0; None where the prompt has one alone


def settle(spec: GenerationSpec, dataset: Dataset, *, skip_bad_rows: bool) -> GenerationSpec:
    """Return the spec with the dataset's own prompt column: the one named, or the only one that there is.

    Raises:
        SpecError: the columns that the spec needs are not there.
    """
    try:
        column = find_prompt_column(dataset.columns, spec)
    except SpecError as error:
        # Where rows may bring columns and may be left out, one without the column speaks for itself alone.
        if dataset.grows and (skip_bad_rows or not dataset.columns):
            return spec
        raise SpecError(f"{dataset.source}: {error}", hint=error.hint) from error
    return spec if column is None else replace(spec, prompt_column=column)


def plan_of(dataset: Dataset, spec: GenerationSpec) -> PromptPlan | SpecError:
    """Return the plan of the columns known now, or why rows with no more of them cannot be used.

    It is made again when a row has brought new columns: as many as the dataset then has.

    Raises:
        SpecError: the columns that the spec needs are not there, and no row brings columns.
    """
    try:
        return PromptPlan(tuple(dataset.columns), spec)
    except SpecError as error:
        if not dataset.grows:
            raise
        return error


def checked_rows(
    dataset: Dataset,
    spec: GenerationSpec,
    *,
    on_bad: Callable[[Problem, str], None] | None = None,
) -> Iterator[list[NewRow]]:
    """Yield the rows, in batches; after the first bad row, none. A prompt is a row for each of its answers.

    Args:
        dataset: not yet read.
        spec: the job's.
        on_bad: called for each bad row with the row as it stands in the file; bad rows are then left out, and
            the others go on.

    Raises:
        DatasetError: at the end, if there were bad rows and no `on_bad`, or if no row is left.
        SpecError: the columns that the spec needs are not there, or its options contradict each other.
    """
    with closing(_RowCheck(dataset, consistent(spec))) as check:
        yield from _checked(dataset, check, on_bad)


def _checked(
    dataset: Dataset, check: "_RowCheck", on_bad: Callable[[Problem, str], None] | None
) -> Iterator[list[NewRow]]:
    """Yield the rows that pass the check, as `checked_rows` does."""
    first: list[Problem] = []
    bad = good = 0
    batch: list[NewRow] = []
    for found in _checked_blocks(dataset, check):
        if isinstance(found, Problem):
            bad += 1
            if len(first) < _SHOWN:
                first.append(found)
            if on_bad is not None:
                on_bad(found, dataset.raw)
            continue
        if bad and on_bad is None:
            continue
        good += 1
        batch += found
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if bad and on_bad is None:
        fix = AS_UTF8 if any(NOT_UTF8 in problem.reason for problem in first) else "correct them"
        hint = f"{fix}, or leave them out with `--skip-bad-rows`; nothing was stored"
        raise DatasetError(first, bad, hint=hint + check.more_hint)
    if not good:
        reason = "has no rows" if not bad else "has no row that can be used"
        raise DatasetError([*first, Problem(dataset.source, 0, reason)], bad + 1)
    if batch:
        yield batch


def _checked_blocks(dataset: Dataset, check: "_RowCheck") -> Iterator[Iterable[NewRow] | Problem]:
    """Yield the rows that pass the check, some at once, and what is wrong with others."""
    for item in dataset.blocks():
        lines: Iterable[Line] = ()
        if not isinstance(item, Block):
            lines = (item,)
        elif (rows := check.whole(item)) is not None:
            yield rows
        else:
            lines = dataset.lines_of(item)
        for line in lines:
            problem = line if isinstance(line, Problem) else check(*line)
            if problem is not None:
                yield problem
            elif not isinstance(line, Problem):
                yield check.new_rows(line[1])


def _encoded(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Return rows of text as JSON lists."""
    whole = "".join(chain.from_iterable(rows)).encode()
    if len(whole.translate(None, _ESCAPED)) < len(whole):
        return map(encode_cells, rows)
    return ['["' + '","'.join(cells) + '"]' for cells in rows]


def encode_cells(cells: Sequence[Any]) -> str:
    """Return the cells as a JSON list."""
    try:
        text = "".join(cells).encode()
        if len(text.translate(None, _ESCAPED)) == len(text):  # 5 times as fast as looking at each character
            return '["' + '","'.join(cells) + '"]' if cells else "[]"
        return "[" + ",".join(map(encode_basestring, cells)) + "]"  # all text: 5 times as fast as the encoder
    except TypeError:
        return "[" + ",".join([_WRITERS.get(type(cell), _encode)(cell) for cell in cells]) + "]"


class _RowCheck:
    """Checks rows; the plan is made again when a row brings new columns."""

    def __init__(self, dataset: Dataset, spec: GenerationSpec) -> None:
        self._dataset = dataset
        self._spec = spec
        self._width = -1
        self._conflicts = RowConflicts(spec)
        self._control = control_tokens(spec.model)
        self._samples = 1  # answers of the row that was checked last
        self._model: int | None = None  # the column in which a batch file asks for a model
        self._seen = {name: SeenIds() for name in ("custom_id", "id")}

    def __call__(self, line: int, cells: Sequence[Any]) -> Problem | None:
        """Return what is wrong with a row, or None."""
        if len(self._dataset.columns) != self._width:
            self._plan_anew()
        try:
            if isinstance(self._plan, SpecError):
                raise self._plan
            request = self._plan.read(cells)
            idle = self._conflicts.notes(request.overrides)
        except SpecError as error:
            reason = f"{error}; {error.hint}" if error.hint else str(error)
            return Problem(self._dataset.source, line, reason)
        problem = self._check_ids(line, cells)
        if problem is None:
            self._samples = request.overrides.get("samples", self._spec.samples)
            self._take_note(line, cells, request, idle)
        return problem

    def whole(self, block: Block) -> Iterable[NewRow] | None:
        """Return the rows of a block, checked at once; None, and nothing noted, where one is to be looked at."""
        if len(self._dataset.columns) != self._width:
            self._plan_anew()
        if isinstance(self._plan, SpecError) or self._model is not None or self._spec.samples > 1:
            return None
        prompts = self._plan.prompts(block.rows)
        if prompts is None or (self._control is not None and self._control.search("\n".join(prompts))):
            return None
        for name, place in self._ids:  # `custom_id` is the first
            ids = list(filter(None, [cells[place] for cells in block.rows]))
            if self._seen[name].add_all(ids):
                continue
            if name == "custom_id":
                return None
            for begin, cells in zip(block.begins, block.rows, strict=True):
                self._check_id(name, begin, cells[place])
        for text in self._conflicts.notes({}):
            self._dataset.notes.add(text, block.begins[0], len(block.rows))
        return map(NewRow._make, zip(_encoded(block.rows), repeat(None)))

    def new_rows(self, cells: Sequence[Any]) -> Iterator[NewRow]:
        """Return the rows of the prompt that was checked last: one for each answer that is wanted."""
        text = encode_cells(cells)
        if self._samples == 1:
            return iter((NewRow(text),))
        return (NewRow(text, sample) for sample in range(self._samples))

    def _take_note(self, line: int, cells: Sequence[Any], request: RowRequest, idle: Sequence[str]) -> None:
        """Note what is worth a word in a row that is taken, and what of it is without effect."""
        notes = self._dataset.notes
        asked = cells[self._model] if self._model is not None else None
        if asked is not None and asked != self._spec.model:
            notes.add(f"the model is `{self._spec.model}`, as `--model` says, and not `{as_text(asked)}`", line)
        for text in idle:
            notes.add(text, line)
        if request.overrides and self._dataset.name != "openai":
            notes.add_options(request.overrides)
        if self._control is not None:
            texts = [request.prompt] if request.turns is None else [turn["content"] for turn in request.turns]
            if any(self._control.search(text) for text in texts if text is not None):
                taken = "control tokens" if self._spec.allow_control_tokens else "text"
                way = "" if self._spec.allow_control_tokens else "; `--allow-control-tokens` changes that"
                notes.add(f"text of the model's control tokens in prompts is taken as {taken}{way}", line)

    def _check_ids(self, line: int, cells: Sequence[Any]) -> Problem | None:
        """Return what is wrong with a row's ids, or None."""
        for name, place in self._ids:
            problem = self._check_id(name, line, cells[place] if place < len(cells) else None)
            if problem is not None:
                return problem
        return None

    def _check_id(self, name: str, line: int, cell: Any) -> Problem | None:  # noqa: ANN401 - any JSON value
        """Refuse a `custom_id` that a good row before has; take note of an `id`, which nothing says is unique."""
        if cell is None or cell == "":
            return None
        text = cell if type(cell) is str else _WRITERS.get(type(cell), _encode)(cell)
        if self._seen[name].add(text):
            return None
        if name == "custom_id":
            return Problem(self._dataset.source, line, f"column `{name}`: `{text}` stands in an earlier row")
        self._dataset.notes.add(f"column `{name}` has values that stand in an earlier row", line)
        return None

    def close(self) -> None:
        """Forget the ids."""
        for seen in self._seen.values():
            seen.close()

    @property
    def more_hint(self) -> str:
        """What else helps where columns set options of their rows."""
        names = [name for name in self._dataset.columns if name in OVERRIDES and self._spec.row_options]
        if self._dataset.name == "openai" or not names:
            return ""
        return f"; `--no-row-options` takes columns such as `{names[0]}` as data"

    def _plan_anew(self) -> None:
        """Make the plan for the columns known now."""
        columns = self._dataset.columns
        self._width = len(columns)
        self._model = columns.index("model") if self._dataset.name == "openai" else None
        self._ids = [(name, columns.index(name)) for name in self._seen if name in columns]
        self._plan = plan_of(self._dataset, self._spec)
