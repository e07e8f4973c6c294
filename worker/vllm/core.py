"""vLLM's own engine as ours sees it: rows go in and are taken out again, and it steps."""

from collections.abc import Collection, Sequence
from typing import Any

from endmark.jobs.engines import RAY
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.vllm.adapters import Adapters
from endmark.worker.vllm.block import Block
from endmark.worker.vllm.following import extra_args
from endmark.worker.vllm.hosts import Exchange


class VllmCore:
    """An LLMEngine of vLLM, its scheduler in this process.

    Args:
        llm: the engine.
        eos_ids: all end tokens; vLLM stops at them by itself, which frees a row's room at once.
        adapters: of its rows; None: they have none.

    Attributes:
        rows: that run at once.
        context: tokens of the longest row.
        eos_ids: at which vLLM stops.
        elsewhere: whether the model is computed in other processes: what they read must be there before a step.
        abroad: whether these may be on other hosts, which share no memory with this one.
    """

    def __init__(self, llm: Any, eos_ids: Collection[int], adapters: Adapters | None = None) -> None:  # noqa: ANN401
        self._llm = llm
        self.eos_ids = sorted(eos_ids)
        self.adapters = adapters or Adapters()
        config = llm.vllm_config
        self.rows: int = config.scheduler_config.max_num_seqs
        self.context: int = config.model_config.max_model_len
        self.elsewhere: bool = config.parallel_config.world_size > 1
        self.abroad: bool = config.parallel_config.distributed_executor_backend == RAY
        self._scheduler = llm.engine_core.engine_core.scheduler
        self._cache = config.cache_config
        self._count = 0

    @property
    def has_work(self) -> bool:
        """Whether it has rows that have not ended."""
        return bool(self._llm.has_unfinished_requests())

    @property
    def page_size(self) -> int:
        """Tokens a page."""
        return int(self._cache.block_size)

    @property
    def pages(self) -> tuple[int, int]:
        """KV pages in use, and in all."""
        pool = self._scheduler.kv_cache_manager.block_pool
        whole = pool.num_gpu_blocks - 1  # one that vLLM keeps for itself
        return whole - pool.get_num_free_blocks(), whole

    def add(self, row: PrefillRow, epoch: int, token_ids: Sequence[int], budget: int, adapter: str | None) -> str:
        """Let it compute a row, under an adapter that was checked; return what it calls the row."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._count += 1
        params = SamplingParams(
            temperature=0.0,
            max_tokens=budget,
            ignore_eos=True,
            stop_token_ids=self.eos_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=extra_args(row, epoch),
        )
        name = str(self._count)
        prompt = {"type": "token", "prompt_token_ids": list(token_ids)}
        self._llm.add_request(name, prompt, params, lora_request=self.adapters.request(adapter))
        return name

    def abort(self, names: Collection[str]) -> None:
        """Let it forget rows; those that it has ended are passed over."""
        self._llm.abort_request(list(names))

    def exchange(self, block: Block) -> Exchange | None:
        """Return what carries a block's news between the hosts; None where its memory is shared."""
        return Exchange(self._llm, block) if self.abroad else None

    def step(self) -> list[tuple[str, str]]:
        """Take one step; return the rows that it has ended by itself, and why.

        Raises:
            RuntimeError: the engine, or one of its processes, has died.
        """
        if not self.elsewhere:
            _take_stream()
        try:
            outputs = self._llm.step()
        except Exception as error:
            raise RuntimeError(f"vLLM's engine has died: {error or type(error).__name__}") from error
        ended = (item for item in outputs if item.finished and item.outputs)
        return [(item.request_id, str(item.outputs[0].finish_reason)) for item in ended]


def _take_stream() -> None:
    """Have vLLM give this thread its stream, if it has none: given during a step, it would split that step in two.

    The thread that steps is not the one that has loaded the model.
    """
    from vllm.utils.torch_utils import current_stream

    current_stream()
