"""The engine alone: prompts in, answers out, in this process, without a database or a queue."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from endmark.client.options import parse_options
from endmark.jobs.datasets import checked_rows, settle
from endmark.jobs.datasets.rows import RowsDataset
from endmark.jobs.engines import AUTO, LOCAL, EngineChoice, computed_with
from endmark.jobs.errors import EndmarkError, PromptTooLong
from endmark.jobs.prompts import PromptPlan
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import Attempt, StoredRow

if TYPE_CHECKING:
    from endmark.worker.engine.request import Finished
    from endmark.worker.service.rows import RowRun


class Engine:
    """A model in 4 bits, loaded into this process. Not thread-safe: one call at a time."""

    def __init__(
        self,
        model: str | None = None,
        *,
        adapter: str | None = None,
        engine: str = AUTO,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
        max_adapters: int = 0,
        executor: str = LOCAL,
        **loading: Any,  # noqa: ANN401
    ) -> None:
        """Load a model, which imports torch.

        Args:
            model: hub id or folder; by default the bundled demo model.
            adapter: the folder of an adapter that was trained on it.
            engine: `endmark`, `vllm`, or `auto`: vLLM's where Endmark's own refuses the model.
            tensor_parallel: GPUs that share each layer, under vLLM.
            pipeline_parallel: GPUs that take the layers one after the other, under vLLM.
            max_adapters: that rows may name in their column `adapter`, so many at once, under vLLM.
            executor: `local`, or `ray`: the GPUs are those of a Ray cluster's hosts, under vLLM.
            loading: `device` (`cpu` or `cuda`), `weights` (`auto`, `packed`, `expanded`, `fp8`, `fp8-original`;
                under vLLM `nf4`, `checkpoint`, `16bit`), `max_rows` in one batch, `kv_cache` (`auto`, `fp8`),
                `trust_remote_code`.

        Raises:
            ModelError: it cannot be loaded.
            MissingDependency: vLLM is wanted and not installed.
            UsageError: the options do not go together.
            SpecError: the adapter was trained on another model.
        """
        self._spec, _ = parse_options({"model": model, "adapter": adapter}, files=False)
        from endmark.worker.engine.choosing import ChoosingEngine
        from endmark.worker.service.engines import load_chosen
        from endmark.worker.service.prompting import Prompter
        from endmark.worker.shapes.compiled import Shapes

        choice = EngineChoice(engine, tensor_parallel, pipeline_parallel, max_adapters, executor)
        loaded = load_chosen(choice, self._spec.model, adapter=self._spec.adapter, **loading)
        self._engine = ChoosingEngine(loaded.engine)
        shapes = Shapes(loaded.engine.vocabulary, loaded.engine.eos_ids, memory=loaded.mask_memory)
        self._prompter = Prompter(loaded.tokenizer, shapes, loaded.engine.capacity.adapters)
        self._busy = False
        self.description = loaded.description
        self._weights = computed_with(loaded.description.engine, loaded.description.weights)

    def __repr__(self) -> str:
        return f"Engine({self._spec.model!r})"

    def generate(self, rows: Any, **options: Any) -> list[Attempt]:  # noqa: ANN401
        """Answer rows; return the answers in the order of the rows, `samples` of them for each.

        Args:
            rows: a data frame, or an iterable of prompts, of dictionaries or of lists of chat turns.
            options: those of `endmark submit` that speak of answers, such as `strategy` and `max_new_tokens`.

        Raises:
            DatasetError: rows cannot be used.
            TypeError: there is no such option.
        """
        return sorted(self.stream(rows, **options), key=lambda attempt: attempt.row)

    def stream(self, rows: Any, **options: Any) -> Iterator[Attempt]:  # noqa: ANN401
        """Yield the answers as they end; `row` tells which row's each is. The arguments are those of `generate`.

        Rows that are left when the caller stops are dropped.

        Raises:
            RuntimeError: another call has not ended.
        """
        if self._busy:
            raise RuntimeError("the engine answers other rows; end that first")
        spec, columns, cells = self._read(rows, options)
        self._busy = True
        try:
            yield from self._answers(PromptPlan(columns, spec), spec, cells)
        finally:
            self._engine.cancel(range(len(cells)))
            self._busy = False

    def _read(self, rows: Any, options: dict[str, Any]) -> tuple[GenerationSpec, list[str], list[str]]:  # noqa: ANN401
        """Check all rows; return the spec, the columns and each row's cells as JSON."""
        for name in ("model", "adapter"):
            if name in options:
                raise TypeError(f"the engine's `{name}` is chosen when it is made")
        model = {"model": self._spec.model, "adapter": self._spec.adapter}
        spec, _ = parse_options({**model, **options}, files=False)
        with RowsDataset(rows) as dataset:
            spec = settle(spec, dataset, skip_bad_rows=False)
            return spec, dataset.columns, [row.cells for batch in checked_rows(dataset, spec) for row in batch]

    def _answers(self, plan: PromptPlan, spec: GenerationSpec, cells: Sequence[str]) -> Iterator[Attempt]:
        """Run the rows, prompts made a batch ahead of the engine."""
        engine = self._engine
        running: dict[int, RowRun] = {}
        batch = 2 * engine.capacity.rows
        for first in range(0, len(cells), batch):
            started, refused = self._started(plan, spec, first, cells[first : first + batch])
            running |= started
            yield from refused
            while engine.has_work and (first + batch >= len(cells) or engine.waiting >= batch // 2):
                for finished in engine.step():
                    yield from self._concluded(running, finished)

    def _started(
        self, plan: PromptPlan, spec: GenerationSpec, first: int, cells: Sequence[str]
    ) -> "tuple[dict[int, RowRun], list[Attempt]]":
        """Hand rows to the engine; return them by their keys, and the results of those that cannot run."""
        from endmark.worker.service.engine_thread import failed
        from endmark.worker.service.rows import RowRun

        values = [tuple(json.loads(text)) for text in cells]
        runs: dict[int, RowRun] = {}
        refused: list[Attempt] = []
        prompts = self._prompter.read(plan, spec, values)
        for key, (row, prompt) in enumerate(zip(values, prompts, strict=True), first):
            run = RowRun(StoredRow(key, row, 0, 0), prompt, self._weights)
            try:
                if prompt.error is not None:
                    raise EndmarkError(prompt.error)
                self._engine.add(run.first_request(key))
                runs[key] = run
            except EndmarkError as error:
                reason = f"{error}: {error.hint}" if error.hint else str(error)
                run.conclude(failed(key, reason, len(prompt.token_ids)))
                refused.append(_last(run))
        return runs, refused

    def _concluded(self, running: "dict[int, RowRun]", finished: "Finished") -> Iterator[Attempt]:
        """Take what the engine ended; yield the row's answer, unless a strategy tries it again."""
        run = running[finished.key]
        run.conclude(finished)
        following = run.next_request(finished, finished.key, self._prompter)
        if following is not None:
            # A further attempt for which the context has no room left is none: the row stays as it was.
            with suppress(PromptTooLong):
                self._engine.add(following)
                return
        yield _last(running.pop(finished.key))


def _last(run: "RowRun") -> Attempt:
    """Return a row's result, its ending judged."""
    return run.outcome().attempts[-1]
