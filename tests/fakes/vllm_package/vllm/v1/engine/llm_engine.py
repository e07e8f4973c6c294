"""The engine: requests go in, it steps, and those that end come out."""

import importlib
import os
import pickle
import subprocess
import sys
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoConfig

from vllm.model_executor.model_loader.utils import get_model_architecture
from vllm.usage.usage_lib import UsageContext
from vllm.v1.core.scheduler import Request, Scheduler
from vllm.v1.worker.runner import Runner

_OTHER = "VllmWorker"  # what is to be seen of them in a list of processes
_FOLLOW = "import sys\nfor line in sys.stdin:\n    print(flush=True)"


@dataclass
class EngineArgs:
    model: str
    skip_tokenizer_init: bool = False
    quantization: str | None = None
    trust_remote_code: bool = False
    max_num_seqs: int = 256
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int = 16
    num_gpu_blocks_override: int | None = None
    kv_cache_dtype: str = "auto"
    disable_log_stats: bool = False
    generation_config: str = "auto"
    async_scheduling: bool | None = None
    distributed_executor_backend: str | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    dtype: str = "auto"
    limit_mm_per_prompt: dict[str, int] = field(default_factory=dict)
    language_model_only: bool = False
    enforce_eager: bool = False
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    logits_processors: list[str] = field(default_factory=list)
    additional_config: dict[str, Any] = field(default_factory=dict)

    def create_model_config(self):
        return SimpleNamespace(hf_config=AutoConfig.from_pretrained(self.model))

    def create_engine_config(self, usage_context):
        if self.max_num_batched_tokens is None:
            self.max_num_batched_tokens = 8192 if usage_context is UsageContext.LLM_CLASS else 2048
        model = AutoConfig.from_pretrained(self.model).get_text_config()
        context = self.max_model_len or model.max_position_embeddings
        blocks = self.num_gpu_blocks_override or 1 + self.max_num_seqs * -(-context // self.block_size)
        return SimpleNamespace(
            model_config=SimpleNamespace(
                max_model_len=context, dtype=torch.float32, get_vocab_size=lambda: model.vocab_size
            ),
            scheduler_config=SimpleNamespace(
                max_num_seqs=self.max_num_seqs,
                max_num_batched_tokens=self.max_num_batched_tokens,
                max_loras=self.max_loras,
                async_scheduling=self.async_scheduling is not False,
            ),
            parallel_config=SimpleNamespace(
                world_size=self.tensor_parallel_size * self.pipeline_parallel_size,
                tensor_parallel_size=self.tensor_parallel_size,
                pipeline_parallel_size=self.pipeline_parallel_size,
                distributed_executor_backend=self.distributed_executor_backend,
            ),
            cache_config=SimpleNamespace(num_gpu_blocks=blocks, block_size=self.block_size),
            additional_config=self.additional_config,
        )


class LLMEngine:
    def __init__(self, args, usage_context):
        self.vllm_config = config = args.create_engine_config(usage_context)
        self.model_config = config.model_config
        network, _ = get_model_architecture(args.create_model_config())
        if args.quantization == "bitsandbytes" and not hasattr(network, "packed_modules_mapping"):
            raise AttributeError(f"Model {network.__name__} does not support BitsAndBytes quantization yet.")
        self._args, self._loras = args, {}
        processors = []
        for name in args.logits_processors:
            module, _, qualname = name.partition(":")
            processors.append(
                getattr(importlib.import_module(module), qualname)(config, torch.device("cpu"), False)
            )
        self._runner = Runner(config, args, processors)
        self._worker = SimpleNamespace(model_runner=self._runner, vllm_config=config, rank=0)
        if config.parallel_config.world_size > 1:  # the first worker of the last stage, which the others follow
            self._worker.rank = args.tensor_parallel_size * (args.pipeline_parallel_size - 1)
        # Those of the other cards, which compute nothing here; as under vLLM's executor a step fails when one has
        # died, and waits for each.
        self._others = [
            subprocess.Popen(
                [sys.executable, "-c", _FOLLOW, _OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
            for _ in range(1, config.parallel_config.world_size)
        ]
        weakref.finalize(self, _end, self._others)
        self._scheduler = Scheduler(config)
        # Its scheduler is in a process of its own unless the environment says otherwise.
        here = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1") == "0"
        self.engine_core = SimpleNamespace(
            **({"engine_core": SimpleNamespace(scheduler=self._scheduler)} if here else {})
        )
        self._queue = deque()
        self._names = set()  # of the requests whose end has not been told

    @classmethod
    def from_engine_args(cls, args, usage_context=UsageContext.ENGINE_CONTEXT):
        return cls(args, usage_context)

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
        args, kwargs = pickle.loads(pickle.dumps((args, kwargs or {})))  # to a process, which may be elsewhere
        return [pickle.loads(pickle.dumps(method(self._worker, *args, **kwargs)))]

    def add_request(self, request_id, prompt, params, lora_request=None):
        ids = prompt["prompt_token_ids"]
        if not ids or len(ids) >= self.model_config.max_model_len:
            raise ValueError("the prompt does not fit")
        assert request_id not in self._names
        self._names.add(request_id)
        self._scheduler.add(Request(request_id, ids, params, self._path_of(lora_request)))
        return request_id

    def _path_of(self, lora):
        """Return the folder of an adapter, which has its number to itself."""
        if lora is None:
            return None
        assert self._args.enable_lora
        assert self._loras.setdefault(lora.lora_int_id, lora.lora_path) == lora.lora_path
        return lora.lora_path

    def abort_request(self, request_ids, internal=False):
        for name in request_ids:
            self._names.discard(name)
            if name in self._scheduler.requests:
                self._scheduler.finish(self._scheduler.requests[name], "abort")

    def has_unfinished_requests(self):
        return bool(self._names)

    def step(self):
        for process in self._others:
            with suppress(BrokenPipeError):
                process.stdin.write(b"\n")
            if not process.stdout.readline():
                raise RuntimeError("Executor failed.")
        depth = 2 if self.vllm_config.scheduler_config.async_scheduling else self._args.pipeline_parallel_size
        if self._scheduler.has_requests():
            plan = self._scheduler.schedule()
            self._queue.appendleft(self._runner.step(plan))
            if len(self._queue) < depth and self._scheduler.has_requests():
                return []
        if not self._queue:
            return []
        ended = self._scheduler.update(self._queue.pop())
        told = [item for item in ended if item.request_id in self._names]
        self._names -= {item.request_id for item in told}
        return [
            SimpleNamespace(
                request_id=item.request_id,
                finished=True,
                outputs=[SimpleNamespace(token_ids=item.output, finish_reason=item.finish_reason)],
            )
            for item in told
        ]


def _end(processes):
    """Let processes of an engine that nobody has any more come to their end."""
    for process in processes:
        process.stdin.close()
        process.wait()
        process.stdout.close()
