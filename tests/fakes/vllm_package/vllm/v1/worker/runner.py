"""The model's runner: a batch whose rows are kept together, and a step of it."""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from vllm.utils.torch_utils import has_stream
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality


class Row:
    def __init__(self, request):
        self.request_id, self.prompt, self.params = request.request_id, list(request.prompt), request.params
        self.lora = request.lora
        self.output = []


class Runner:
    def __init__(self, config, args, processors):
        self.model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
        self.args, self.adapted = args, {}  # the model under each adapter, by its folder
        self.config = config
        slots = config.scheduler_config.max_num_seqs
        self.input_batch = SimpleNamespace(
            logitsprocs=SimpleNamespace(all=processors), num_computed_tokens_cpu=np.zeros(slots, np.int32)
        )
        self.discard_request_mask = SimpleNamespace(np=np.zeros(config.scheduler_config.max_num_seqs, bool))
        self.rows = {}  # by id, also those that are not in the batch
        self.batch = []  # rows and, for a moment, None
        self.last = {}  # what the last step has drawn, by id
        self.model_memory_usage = sum(item.numel() * item.element_size() for item in self.model.parameters())

    def _update(self, plan):
        """Let rows leave and come; close gaps with the last rows, as vLLM does."""
        removed, added, moved = [], [], []
        for name in plan.finished:
            self.rows.pop(name, None)
        for index, row in enumerate(self.batch):
            if row.request_id not in plan.tokens or row.request_id not in self.rows:
                self.batch[index] = None
                removed.append(index)
        to_add = []
        for request in plan.came:
            row = self.rows.setdefault(request.request_id, Row(request))
            row.output = list(request.output)
            to_add.append(row)
        held = {row.request_id for row in [*self.batch, *to_add] if row is not None}
        to_add += [self.rows[name] for name in plan.tokens if name not in held]  # that had missed a step
        for row in to_add:
            if removed:
                index = min(removed)
                removed.remove(index)
                self.batch[index] = row
            else:
                index = len(self.batch)
                self.batch.append(row)
            added.append((index, row.params, row.prompt, row.output))
        while None in self.batch:
            if self.batch[-1] is None:
                self.batch.pop()
                continue
            gap = self.batch.index(None)
            self.batch[gap] = self.batch.pop()
            moved.append((len(self.batch), gap, MoveDirectionality.UNIDIRECTIONAL))
        if len(self.batch) > 1 and len(moved) == 1:  # as a backend that wants another order
            self.batch[0], self.batch[-1] = self.batch[-1], self.batch[0]
            moved.append((0, len(self.batch) - 1, MoveDirectionality.SWAP))
        for index, row in enumerate(self.batch):
            self.input_batch.num_computed_tokens_cpu[index] = plan.starts[row.request_id]
        if removed or added or moved:
            return BatchUpdate(len(self.batch), sorted(removed, reverse=True), added, moved)
        return None

    @torch.inference_mode()
    def step(self, plan):
        """Compute a step; return {id: token} of the rows that were computed to their end."""
        elsewhere = self.config.parallel_config.world_size > 1  # whose processes have threads of their own
        assert elsewhere or has_stream(), "it would be given during the step"
        update = self._update(plan)
        for processor in self.input_batch.logitsprocs.all:
            processor.update_state(update)
        if not self.batch:
            return {}
        rows = []
        for row in self.batch:
            held = [*row.prompt, *row.output]
            if held[-1] == -1:
                held[-1] = self.last[row.request_id]
            end = plan.starts[row.request_id] + plan.tokens[row.request_id]
            rows.append(held[:end])
            self.discard_request_mask.np[len(rows) - 1] = end < len(held)
        logits = self._all_logits(rows)
        for row in self.batch:  # what vLLM repairs just before a processor looks at it
            if row.output and row.output[-1] == -1:
                row.output[-1] = self.last[row.request_id]
        for processor in self.input_batch.logitsprocs.all:
            assert not processor.is_argmax_invariant()
            logits = processor.apply(logits)
        drawn = logits.argmax(-1).tolist()
        whole = ~self.discard_request_mask.np[: len(rows)]
        behind = self.config.scheduler_config.async_scheduling
        self.last = {}
        for row, token, is_whole in zip(self.batch, drawn, whole, strict=True):
            if is_whole:
                self.last[row.request_id] = token
                row.output.append(-1 if behind else token)
        return dict(self.last)

    def _all_logits(self, rows):
        """Return (R, V) fp32 behind the last token of each row, each under its adapter."""
        loras = [row.lora for row in self.batch]
        assert len(set(loras) - {None}) <= self.args.max_loras
        logits = torch.zeros(len(rows), self.model.config.vocab_size)
        for lora in set(loras):
            places = [index for index, own in enumerate(loras) if own == lora]
            logits[places] = self._logits([rows[index] for index in places], self._under(lora))
        return logits

    def _under(self, lora):
        """Return the model under an adapter; None: as it is."""
        if lora is None:
            return self.model
        if lora not in self.adapted:
            from peft import PeftModel

            self.adapted[lora] = PeftModel.from_pretrained(deepcopy(self.model), lora).eval()
        return self.adapted[lora]

    def _logits(self, rows, model):
        """Return (R, V) fp32 behind the last token of each row."""
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        seen = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits
        return logits[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])].float()
