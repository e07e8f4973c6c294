"""The training itself: peft's LoRA on the NF4 model, under TRL's SFTTrainer."""

import json
import math
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from endmark.jobs.errors import SpecError
from endmark.jobs.finetuning.request import FinetuneProgress, FinetuneSpec
from endmark.worker.finetune.batches import Collator, count_eos
from endmark.worker.finetune.labels import Labelled, pack
from endmark.worker.finetune.memory import use_room
from endmark.worker.models.loader import compute_dtype

CHECKPOINTS = "checkpoints"  # in the adapter's folder
_STATE = "trainer_state.json"  # the last file of a checkpoint to be written
_KEPT = 2  # checkpoints
_LOGGED = 500  # points of the loss curve, about

Report = Callable[[FinetuneProgress], None]


def build_trainer(
    network: PreTrainedModel,
    tokenizer: Any,  # noqa: ANN401
    examples: Sequence[Labelled],
    spec: FinetuneSpec,
    *,
    device: str,
    report: Report,
) -> Any:  # noqa: ANN401 - an SFTTrainer
    """Return a trainer of a LoRA adapter over the network's linear layers, all but the last.

    Args:
        network: in NF4, on the device.
        tokenizer: the model's, saved with each checkpoint.
        examples: at least one.
        report: called after each step.
    """
    network.set_attn_implementation("sdpa")  # the engine's own needs its pages
    records = _records(examples, spec)
    trainer = SFTTrainer(
        network,
        _arguments(spec, device),
        data_collator=Collator(
            tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        ),
        train_dataset=Dataset.from_list(records),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[_Reporter(report)],
    )
    trainer.remove_callback(PrinterCallback)
    _learn_in_fp32(trainer.model)
    use_room(trainer, max(records, key=lambda record: len(record["input_ids"])), batch_size=spec.batch_size)
    return trainer


def _arguments(spec: FinetuneSpec, device: str) -> SFTConfig:
    """Return the trainer's settings."""
    on_gpu = device != "cpu"
    dtype = compute_dtype(device)
    return SFTConfig(
        output_dir=str(Path(spec.output) / CHECKPOINTS),
        max_steps=spec.steps,
        per_device_train_batch_size=spec.batch_size,
        gradient_accumulation_steps=spec.accumulate,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,  # a share of all
        save_strategy="steps",
        save_steps=spec.save_every,
        save_total_limit=_KEPT,
        logging_steps=max(1, math.ceil(spec.steps / _LOGGED)),
        seed=spec.seed,
        data_seed=spec.seed,
        use_cpu=not on_gpu,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        gradient_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
        max_length=None,  # cut already, without an EOS at the cut
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )


def check_eos(trainer: Any, eos_ids: Collection[int]) -> str:  # noqa: ANN401
    """Return a line on how many examples have EOS in their labels, in the batches that the trainer makes.

    Raises:
        SpecError: none has.
    """
    total, with_eos = count_eos(trainer.get_train_dataloader(), eos_ids)
    if not with_eos:
        raise SpecError(
            f"none of the {total:,} examples has EOS in its labels: nothing would teach the model to stop",
            hint="every answer is cut by the length limit: raise `--max-length`, or shorten the answers",
        )
    return f"EOS is in the labels of {with_eos:,} of {total:,} examples ({100 * with_eos / total:.1f} %)"


def train(trainer: Any, spec: FinetuneSpec) -> None:  # noqa: ANN401
    """Train to the last step, from the last whole checkpoint if there is one."""
    set_seed(spec.seed)  # the check before has drawn from the generators
    trainer.train(resume_from_checkpoint=last_checkpoint(Path(spec.output)))


def last_checkpoint(output: Path) -> str | None:
    """Return the folder of the last checkpoint, or None; what a killed process left half written is removed."""
    found: list[tuple[int, Path]] = []
    for folder in (output / CHECKPOINTS).glob("checkpoint-*"):
        if _is_whole(folder):
            found.append((int(folder.name.rpartition("-")[2]), folder))
        else:
            shutil.rmtree(folder)
    return str(max(found)[1]) if found else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    try:
        json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _records(examples: Sequence[Labelled], spec: FinetuneSpec) -> list[dict[str, list[int]]]:
    """Return the rows of the dataset, packed if the spec says so."""
    if not spec.packing:
        return [{"input_ids": list(item.token_ids), "labels": list(item.labels)} for item in examples]
    return [
        {"input_ids": list(item.token_ids), "labels": list(item.labels), "lengths": list(item.lengths)}
        for item in pack(examples, spec.max_length)
    ]


def _learn_in_fp32(network: Any) -> None:  # noqa: ANN401 - a module
    """Hold the adapter in fp32, which TRL has put into bf16, where small steps of Adam round to nothing."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


class _Reporter(TrainerCallback):
    """Tells the loss and the time left after each step."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._began: tuple[int, float] | None = None
        self._loss: float | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:  # noqa: ANN401, ARG002
        """Note when the first step of this process began."""
        self._began = self._began or (state.global_step, time.monotonic())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:  # noqa: ANN401, ARG002
        """Take the loss from the log, which follows the step."""
        if logs and "loss" in logs:
            self._loss = float(logs["loss"])

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:  # noqa: ANN401, ARG002
        """Tell how far the training is, with the loss of the step before."""
        left = None
        if self._began is not None and state.global_step > self._began[0]:
            per_step = (time.monotonic() - self._began[1]) / (state.global_step - self._began[0])
            left = per_step * (state.max_steps - state.global_step)
        self._report(FinetuneProgress("training", state.global_step, state.max_steps, self._loss, left))
