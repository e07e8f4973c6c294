"""A fine-tuning from the dataset to the finished adapter; a killed one, called again, goes on where it was."""

import gc
import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError

from endmark.jobs.errors import DatasetError, Problem, SpecError, TokenUnknown
from endmark.jobs.finetuning.chats import Chat, read_chats
from endmark.jobs.finetuning.request import LEARN_ANSWER, FinetuneProgress, FinetuneSpec
from endmark.worker.finetune.curve import write_curve
from endmark.worker.finetune.evaluation import as_record, held_out_endings, held_out_perplexity, table
from endmark.worker.finetune.holding import held
from endmark.worker.finetune.labels import LLAMA_2_TEMPLATE, Labelled, Labeller
from endmark.worker.finetune.manifest import EVALUATION, begin_run, describe, end_run, is_done, write_json
from endmark.worker.finetune.training import CHECKPOINTS, build_trainer, check_eos, last_checkpoint, train
from endmark.worker.models.end_tokens import end_token_ids
from endmark.worker.models.loader import count_embeddings, load_model, load_tokenizer, model_path

_HELD_OUT_SHARE = 5  # at most one in so many different prompts is held out


@dataclass(frozen=True, slots=True)
class _Split:
    """The examples to learn from and those kept for the evaluation."""

    train: list[Chat]
    held_out: list[Chat]


def fine_tune(spec: FinetuneSpec, report: Callable[[FinetuneProgress], None], *, device: str) -> None:
    """Train an adapter and write its folder: weights, tokeniser, manifest, loss curve, evaluation.

    Raises:
        DatasetError: rows of the dataset cannot be used.
        SpecError: the dataset or the folder does not serve.
        ModelError: the model cannot be loaded.
    """
    waiting = FinetuneProgress("waiting for another process that trains into the folder")
    with held(Path(spec.output), lambda: report(waiting)):
        _fine_tune(spec, report, device)


def _fine_tune(spec: FinetuneSpec, report: Callable[[FinetuneProgress], None], device: str) -> None:
    """Do the same in a folder that this process holds."""
    output = Path(spec.output)
    report(FinetuneProgress("reading the dataset"))
    split = _split(
        read_chats(spec.dataset, prompt_column=spec.prompt_column, answer_column=spec.answer_column), spec
    )
    description = describe(spec)
    evaluation = begin_run(output, description)
    if is_done(output):
        notes = (f"`{output}` holds this adapter already", *table(evaluation["before"], evaluation["after"]))
        report(FinetuneProgress("done", notes=notes))
        return
    if "before" not in evaluation:
        report(FinetuneProgress("evaluating the model as it is"))
        endings_before = held_out_endings(spec, split.held_out, adapter=None, device=device)
    trained = _Training(spec, split, device, report)
    if "before" not in evaluation:
        evaluation["before"] = as_record(endings_before, trained.perplexity())
        write_json(output / EVALUATION, evaluation)
    results = trained.run()
    perplexity_after = trained.perplexity()
    trained.save()
    del trained
    gc.collect()
    report(FinetuneProgress("evaluating the adapter"))
    endings_after = held_out_endings(spec, split.held_out, adapter=spec.output, device=device)
    evaluation["after"] = as_record(endings_after, perplexity_after)
    write_json(output / EVALUATION, evaluation)
    end_run(output, description, results)
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
    report(FinetuneProgress("done", notes=tuple(table(evaluation["before"], evaluation["after"]))))


class _Training:
    """The network with its adapter, from loading to saving."""

    def __init__(
        self, spec: FinetuneSpec, split: _Split, device: str, report: Callable[[FinetuneProgress], None]
    ) -> None:
        self._spec = spec
        self._device = device
        self._report = report
        report(FinetuneProgress("loading the model"))
        path = model_path(spec.model)
        self._tokenizer = load_tokenizer(path)
        notes = []
        if self._tokenizer.chat_template is None:
            self._tokenizer.chat_template = LLAMA_2_TEMPLATE
            notes.append("the model has no chat template: trained in Llama 2's form, [INST] … [/INST]")
        network = load_model(path, device=device)
        self._eos_ids = end_token_ids(
            network.generation_config,
            network.config,
            self._tokenizer,
            vocabulary=network.config.get_text_config().vocab_size,
        )
        labeller = Labeller(
            self._tokenizer,
            self._eos_ids,
            spec.max_length,
            embeddings=count_embeddings(network),
            answer_alone=spec.learn == LEARN_ANSWER,
        )
        self._held_out, _ = _learnable(_labelled(labeller, split.held_out, spec))
        examples, said = _learnable(_labelled(labeller, split.train, spec))
        torch.manual_seed(spec.seed)
        self._trainer = build_trainer(network, self._tokenizer, examples, spec, device=device, report=report)
        checked = check_eos(self._trainer, self._eos_ids)
        report(FinetuneProgress("checked the examples", notes=(*notes, *said, checked)))
        self._examples = len(examples)

    def perplexity(self) -> Any:  # noqa: ANN401
        """Return the perplexity of the held-out answers, as the network is now."""
        return held_out_perplexity(
            self._trainer.model, self._held_out, self._eos_ids, batch_size=self._spec.batch_size
        )

    def run(self) -> dict[str, Any]:
        """Train; return what the manifest says of it."""
        checkpoint = last_checkpoint(Path(self._spec.output))
        if checkpoint is not None:
            note = f"going on from step {checkpoint.rpartition('-')[2]} of {self._spec.steps}"
            self._report(FinetuneProgress("training", notes=(note,)))
        if self._device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        began = time.monotonic()
        train(self._trainer, self._spec)
        model = self._trainer.model
        results: dict[str, Any] = {
            "device": torch.cuda.get_device_name() if self._device != "cpu" else "cpu",
            "examples": self._examples,
            "held_out": len(self._held_out),
            "trainable_parameters": sum(item.numel() for item in model.parameters() if item.requires_grad),
            "seconds": round(time.monotonic() - began, 1),  # of this process, where one before was killed
        }
        if self._device != "cpu":
            results["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        return results

    def save(self) -> None:
        """Write the adapter, the tokeniser and the loss curve."""
        output = Path(self._spec.output)
        self._trainer.model.save_pretrained(output)
        (output / "README.md").unlink(missing_ok=True)  # peft's form to be filled in
        self._tokenizer.save_pretrained(output)
        write_curve(output, self._trainer.state.log_history)


def _split(chats: Sequence[Chat], spec: FinetuneSpec) -> _Split:
    """Hold some prompts out, by the seed, each once; no chat with one of them is learned from.

    Raises:
        SpecError: too few are left.
    """
    by_prompt: dict[str, list[Chat]] = {}
    for chat in chats:
        by_prompt.setdefault(json.dumps(chat.turns[:-1]), []).append(chat)
    count = max(1, min(spec.held_out, len(by_prompt) // _HELD_OUT_SHARE))
    chosen = set(random.Random(spec.seed).sample(list(by_prompt), count))
    train = [chat for prompt, found in by_prompt.items() if prompt not in chosen for chat in found]
    if not train:
        raise SpecError(
            f"the dataset `{spec.dataset}` has too few different prompts",
            hint="some are held out for the evaluation, so at least 2 are needed",
        )
    return _Split(train, [found[0] for prompt, found in by_prompt.items() if prompt in chosen])


def _labelled(labeller: Labeller, chats: Sequence[Chat], spec: FinetuneSpec) -> list[Labelled]:
    """Return the chats as token ids and labels.

    Raises:
        DatasetError: the model's chat template refuses one, or one holds a token that the model has not.
    """
    found = []
    for chat in chats:
        try:
            found.append(labeller.label(chat.turns))
        except TemplateError as error:
            problem = Problem(spec.dataset, chat.line, f"the model's chat template refuses it: {error}")
            raise DatasetError([problem], 1, hint="fix this row or take it out") from error
        except TokenUnknown as error:
            raise DatasetError([Problem(spec.dataset, chat.line, str(error))], 1, hint=error.hint) from error
    return found


def _learnable(examples: Sequence[Labelled]) -> tuple[list[Labelled], list[str]]:
    """Return the examples that teach something, and what is to be said of the others.

    Raises:
        SpecError: there is none.
    """
    kept = [item for item in examples if item.learns]
    if not kept:
        raise SpecError("every prompt alone fills the length limit", hint="raise `--max-length`")
    notes = []
    dropped = len(examples) - len(kept)
    cut = sum(item.cut for item in kept)
    if dropped:
        notes.append(f"{dropped:,} examples are left out: their prompts alone fill the length limit")
    if cut:
        notes.append(f"{cut:,} answers are cut by the length limit and have no EOS")
    return kept, notes
