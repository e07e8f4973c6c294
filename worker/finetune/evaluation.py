"""Held-out prompts before and after: how answers end in Endmark's engine, and the true ones' perplexity."""

import gc
import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from endmark.jobs.errors import ModelError, PromptTooLong, SpecError
from endmark.jobs.finetuning.chats import Chat
from endmark.jobs.finetuning.request import FinetuneSpec
from endmark.jobs.prompts import RowRequest
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import as_percent
from endmark.jobs.vocabulary import EosSource
from endmark.worker.engine.request import Finished, Request
from endmark.worker.finetune.batches import Collator
from endmark.worker.finetune.labels import IGNORED, LLAMA_2_TEMPLATE, Labelled
from endmark.worker.models.loaded import LoadedEngine
from endmark.worker.models.loader import load_engine
from endmark.worker.service.prompting import Prompt, Prompter


@dataclass(frozen=True, slots=True)
class Endings:
    """How the answers to the held-out prompts ended, with `baseline` and greedy."""

    prompts: int
    natural_eos: float  # share of them
    truncated: float
    mean_tokens: float
    too_long: int  # prompts left out, since the model's context holds no answer to them


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Of the held-out answers, given their prompts."""

    answers: float  # the text alone
    with_eos: float  # the end token too


def held_out_endings(spec: FinetuneSpec, chats: Sequence[Chat], *, adapter: str | None, device: str) -> Endings:
    """Answer the last turn of each chat anew and count how the answers end.

    Raises:
        ModelError: the model cannot be loaded, or its template refuses a prompt.
        SpecError: no prompt fits the model's context.
    """
    try:
        return _endings(load_engine(spec.model, adapter=adapter, device=device), spec, chats, adapter)
    finally:
        gc.collect()  # the engine goes with its cache, which takes nearly all that a card has: training needs it
        if device != "cpu":
            torch.cuda.empty_cache()


def _endings(loaded: LoadedEngine, spec: FinetuneSpec, chats: Sequence[Chat], adapter: str | None) -> Endings:
    """Do the same with an engine that nobody else holds; the other arguments are those of `held_out_endings`."""
    if loaded.tokenizer.chat_template is None:
        loaded.tokenizer.chat_template = LLAMA_2_TEMPLATE
    job = GenerationSpec(model=spec.model, adapter=adapter, max_new_tokens=spec.max_new_tokens)
    prompts = Prompter(loaded.tokenizer).encode(
        [Prompt(job, RowRequest(None, chat.turns[:-1], {})) for chat in chats]
    )
    finished = _answers(loaded, prompts, spec.max_new_tokens)
    count = len(finished)
    if not count:
        raise SpecError("no held-out prompt fits the model's context", hint="shorten the prompts of the dataset")
    return Endings(
        prompts=count,
        natural_eos=sum(item.verdict.eos_source is EosSource.NATURAL for item in finished) / count,
        truncated=sum(item.verdict.truncated for item in finished) / count,
        mean_tokens=sum(item.completion_tokens for item in finished) / count,
        too_long=len(prompts) - count,
    )


def _answers(loaded: LoadedEngine, prompts: Sequence[Prompt], budget: int) -> list[Finished]:
    """Run the prompts that fit the model's context, all at once."""
    for key, prompt in enumerate(prompts):
        if prompt.error is not None:
            raise ModelError(f"a held-out prompt cannot be used: {prompt.error}")
        with suppress(PromptTooLong):
            loaded.engine.add(Request(key=key, prompt_token_ids=prompt.token_ids, max_new_tokens=budget))
    finished: list[Finished] = []
    while loaded.engine.has_work:
        finished += loaded.engine.step()
    return finished


def held_out_perplexity(
    network: Any,  # noqa: ANN401
    examples: Sequence[Labelled],
    eos_ids: Collection[int],
    *,
    batch_size: int,
) -> Perplexity:
    """Return the perplexity of the examples' labels, with and without their end tokens."""
    collate = Collator(min(eos_ids))
    ends = torch.tensor(sorted(eos_ids), device=network.device)
    sums = {"text": 0.0, "eos": 0.0}
    counts = {"text": 0, "eos": 0}
    was_training = network.training
    network.eval()
    with torch.no_grad():
        for begin in range(0, len(examples), batch_size):
            part = examples[begin : begin + batch_size]
            batch = collate([{"input_ids": item.token_ids, "labels": item.labels} for item in part])
            batch = {name: tensor.to(network.device) for name, tensor in batch.items()}
            labels = batch.pop("labels")[:, 1:]
            logits = network(**batch, use_cache=False).logits[:, :-1]
            kept = labels != IGNORED
            losses = cross_entropy(logits[kept].float(), labels[kept], reduction="none")
            is_eos = torch.isin(labels[kept], ends)
            for name, chosen in (("text", ~is_eos), ("eos", is_eos)):
                sums[name] += float(losses[chosen].sum())
                counts[name] += int(chosen.sum())
    network.train(was_training)
    return Perplexity(
        answers=math.exp(sums["text"] / max(1, counts["text"])),
        with_eos=math.exp(sum(sums.values()) / max(1, sum(counts.values()))),
    )


def as_record(endings: Endings, perplexity: Perplexity) -> dict[str, float]:
    """Return both as `evaluation.json` holds them."""
    return {
        **asdict(endings),
        "perplexity": perplexity.answers,
        "perplexity_with_eos": perplexity.with_eos,
    }


def table(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Return the evaluation as lines to print."""
    rows: list[tuple[str, str, Callable[[float], str]]] = [
        ("natural EOS", "natural_eos", partial(as_percent, digits=1)),
        ("truncated", "truncated", partial(as_percent, digits=1)),
        ("mean tokens", "mean_tokens", "{:.1f}".format),
        ("perplexity of the answers", "perplexity", "{:.3f}".format),
        ("… with their EOS", "perplexity_with_eos", "{:.3f}".format),
    ]
    left_out = f" ({before['too_long']} more do not fit the model's context)" if before.get("too_long") else ""
    lines = [f"{before['prompts']} held-out prompts, `baseline`, greedy{left_out}"]
    lines.append(f"{'':28}{'before':>10}{'after':>10}")
    lines += [f"{title:28}{form(before[key]):>10}{form(after[key]):>10}" for title, key, form in rows]
    return lines
