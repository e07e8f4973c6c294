"""Collecting the evidence: a small sample of prompts through the real engine, with the trace kept."""

import gc
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import AutoConfig

from endmark.jobs.datasets import open_dataset, plan_of, settle
from endmark.jobs.engines import ANY_ENGINE, EngineChoice
from endmark.jobs.errors import ModelError, Problem, SpecError
from endmark.jobs.generation_config import own_sampling as settings_of
from endmark.jobs.prompts import RowRequest
from endmark.jobs.sampling import Sampling
from endmark.jobs.spec import GenerationSpec
from endmark.worker.doctor.evidence import Evidence, RowEvidence, SixteenBits
from endmark.worker.doctor.facts import read_facts, read_generation_config, read_weights
from endmark.worker.doctor.questions import QUESTIONS
from endmark.worker.doctor.sampled import row_evidence
from endmark.worker.engine.request import Finished, Request
from endmark.worker.models.adapters import model_folder
from endmark.worker.models.loaded import LoadedEngine
from endmark.worker.models.loader import load_engine, model_path
from endmark.worker.service.engines import load_chosen
from endmark.worker.service.prompting import Prompt, Prompter


@dataclass(frozen=True, slots=True)
class Sample:
    """What to run: `spec` without strategies, sampled as a job would: as given, else as the model's files say."""

    spec: GenerationSpec
    dataset: str | None = None  # None: the built-in questions
    rows: int = 24
    given: Mapping[str, Any] = field(default_factory=dict)  # values of `Sampling` that the user gave
    device: str = "cpu"
    compare_precision: bool = False  # answer the prompts in 16 bits as well
    engine: EngineChoice = ANY_ENGINE


def collect(sample: Sample) -> Evidence:
    """Load the model, run the sample and return the evidence.

    Raises:
        ModelError: the model cannot be loaded.
        UsageError: the dataset cannot be used.
    """
    spec = replace(sample.spec, trace=True)
    requests = read_requests(sample.dataset, spec, sample.rows)
    path = model_path(spec.model)
    folder = model_folder(path)
    config = read_generation_config(path)
    sampling = Sampling(**{**settings_of(config.to_dict(), sample.given), **sample.given})
    spec = replace(spec, sampling=sampling)
    whole = _in_sixteen_bits(spec, requests, sample.device) if sample.compare_precision else None
    loaded = load_chosen(sample.engine, spec.model, adapter=spec.adapter, device=sample.device)
    prompts = _encoded(loaded, spec, requests)
    draws = any(prompt.spec.sampling.temperature for prompt in prompts)
    facts = read_facts(spec.model, spec.adapter, loaded.tokenizer, config, loaded.engine.eos_ids)
    facts = replace(facts, engine=tuple(sample.engine.words()))
    special = facts.token_names.keys() - facts.used_eos
    return Evidence(
        facts=read_weights(facts, AutoConfig.from_pretrained(path), folder),
        rows=run_sample(loaded, prompts, special),
        greedy=run_sample(loaded, [_greedy(prompt) for prompt in prompts], special) if draws else (),
        sixteen_bits=SixteenBits(whole, _ends_in_both(loaded, prompts, whole)) if whole is not None else None,
        templated=loaded.tokenizer.chat_template is not None and not spec.raw,
        sampling=sampling,
        budget=spec.max_new_tokens,
    )


def _in_sixteen_bits(spec: GenerationSpec, requests: Sequence[RowRequest], device: str) -> tuple[RowEvidence, ...]:
    """Return the answers of the model as its files have it; it is gone from memory afterwards.

    Raises:
        ModelError: the files hold it quantised.
    """
    path = model_path(spec.model)
    if getattr(AutoConfig.from_pretrained(path), "quantization_config", None) is not None:
        raise ModelError(
            f"the files of `{spec.model}` hold it quantised, so there is nothing to compare with",
            hint="give the model that it was made of",
        )
    loaded = load_engine(spec.model, adapter=spec.adapter, device=device, four_bits=False)
    rows = run_sample(loaded, _encoded(loaded, spec, requests), ())
    del loaded
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return rows


def _ends_in_both(
    loaded: LoadedEngine, prompts: Sequence[Prompt], whole: Sequence[RowEvidence]
) -> tuple[tuple[float, float], ...]:
    """Return the EOS probability where the model in 16 bits ended by itself: its own, and that in 4 bits there.

    Args:
        loaded: the engine in 4 bits.
        prompts: of all rows.
        whole: their answers in 16 bits.
    """
    ended = [(prompt, row) for prompt, row in zip(prompts, whole, strict=True) if row.ended]
    behind = []
    for prompt, row in ended:
        spec = replace(prompt.spec, max_new_tokens=1)
        behind.append(replace(prompt, spec=spec, token_ids=(*prompt.token_ids, *row.token_ids), thought=None))
    there = run_sample(loaded, behind, ())
    return tuple((row.probs[-1], found.prob_max) for (_, row), found in zip(ended, there, strict=True))


def _encoded(loaded: LoadedEngine, spec: GenerationSpec, requests: Sequence[RowRequest]) -> list[Prompt]:
    """Return the prompts under the job's options and the rows' own, all but strategies and adapters.

    Raises:
        ModelError: a prompt cannot be used.
    """
    prompts = []
    for request in requests:
        own = {name: value for name, value in request.overrides.items() if name not in ("strategies", "adapter")}
        prompts.append(Prompt(spec.with_overrides(own), request))
    prompts = Prompter(loaded.tokenizer).encode(prompts)
    bad = next((prompt for prompt in prompts if prompt.error is not None), None)
    if bad is not None:
        raise ModelError(f"a prompt of the sample cannot be used: {bad.error}")
    return prompts


def _greedy(prompt: Prompt) -> Prompt:
    """Return the prompt to be answered with the best token each time."""
    sampling = replace(prompt.spec.sampling, temperature=0.0)
    return replace(prompt, spec=replace(prompt.spec, sampling=sampling))


def read_requests(dataset: str | None, spec: GenerationSpec, limit: int) -> list[RowRequest]:
    """Return the first rows of the dataset, or of the built-in questions.

    Raises:
        UsageError: the dataset cannot be read or has no row that can be used.
    """
    if dataset is None:
        return [RowRequest(question, None, {}) for question in QUESTIONS[:limit]]
    found: list[RowRequest] = []
    first: SpecError | None = None
    with open_dataset(dataset) as opened:
        settled, width = None, -1
        for line in opened:
            if isinstance(line, Problem):
                continue
            if len(opened.columns) != width:
                settled = settled or settle(spec, opened, skip_bad_rows=True)
                plan, width = plan_of(opened, settled), len(opened.columns)
            try:
                if isinstance(plan, SpecError):
                    raise plan
                found.append(plan.read(line[1]))
            except SpecError as error:
                first = first or error
            if len(found) == limit:
                break
    if not found:
        raise first or SpecError(f"the dataset `{dataset}` has no row that can be used")
    return found


def run_sample(
    loaded: LoadedEngine, prompts: Sequence[Prompt], special: Collection[int]
) -> tuple[RowEvidence, ...]:
    """Run the prompts with no strategy; return the rows in order.

    Args:
        loaded: the engine.
        prompts: with their token ids.
        special: ids of the special tokens that end no answer.
    """
    engine = loaded.engine
    for index, prompt in enumerate(prompts):
        engine.add(
            Request(
                key=index,
                prompt_token_ids=prompt.token_ids,
                max_new_tokens=prompt.spec.max_new_tokens,
                sampling=prompt.spec.sampling,
                bad_words=prompt.bad_words,
                stream=index,
                trace=True,
                thought=prompt.thought,
            )
        )
    done: dict[int, Finished] = {}
    while engine.has_work:
        done.update((finished.key, finished) for finished in engine.step())
    return tuple(
        row_evidence(prompt, done[index], engine.vocabulary, special) for index, prompt in enumerate(prompts)
    )
