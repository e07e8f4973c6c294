"""Collecting the evidence: a small sample of prompts through the real engine, with the trace kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import AutoConfig

from endmark.jobs.datasets import open_dataset, settle
from endmark.jobs.errors import ModelError, Problem, SpecError
from endmark.jobs.landing import LANDED, START, advance
from endmark.jobs.prompts import PromptPlan, RowRequest
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies.base import EndHere
from endmark.jobs.strategies.no_loops import NoLoops
from endmark.worker.doctor.evidence import Evidence, RowEvidence
from endmark.worker.doctor.facts import own_sampling, read_facts, read_generation_config, read_weights
from endmark.worker.doctor.questions import QUESTIONS
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.text import AnswerText, Vocabulary
from endmark.worker.models.adapters import model_folder
from endmark.worker.models.loader import LoadedEngine, load_engine, model_path
from endmark.worker.service.prompting import Prompt, Prompter


@dataclass(frozen=True, slots=True)
class Sample:
    """What to run: `spec` without strategies; its sampling counts only where `own_sampling` is not set."""

    spec: GenerationSpec
    dataset: str | None = None  # None: the built-in questions
    rows: int = 24
    own_sampling: bool = True  # sample as the model's own generation config says
    device: str = "cpu"


def collect(sample: Sample) -> Evidence:
    """Load the model, run the sample and return the evidence.

    Raises:
        ModelError: the model cannot be loaded.
        UsageError: the dataset cannot be used.
    """
    spec = replace(sample.spec, trace=True)
    requests = read_requests(sample.dataset, spec, sample.rows)
    loaded = load_engine(spec.model, adapter=spec.adapter, device=sample.device)
    config = read_generation_config(model_path(spec.model))
    if sample.own_sampling:
        spec = replace(spec, sampling=replace(own_sampling(config), seed=spec.sampling.seed))
    prompts = Prompter(loaded.tokenizer).encode([Prompt(spec, request) for request in requests])
    bad = next((prompt for prompt in prompts if prompt.error is not None), None)
    if bad is not None:
        raise ModelError(f"a prompt of the sample cannot be used: {bad.error}")
    facts = read_facts(spec.model, spec.adapter, loaded.tokenizer, config, loaded.engine.eos_ids)
    path = model_path(spec.model)
    return Evidence(
        facts=read_weights(facts, AutoConfig.from_pretrained(path), model_folder(path)),
        rows=tuple(run_sample(loaded, spec, prompts)),
        templated=loaded.tokenizer.chat_template is not None and not spec.raw,
        sampling=spec.sampling,
        budget=spec.max_new_tokens,
    )


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
        plan: PromptPlan | None = None
        for line in opened:
            if isinstance(line, Problem):
                continue
            plan = plan or PromptPlan(opened.columns, settle(spec, opened, skip_bad_rows=True))
            try:
                found.append(plan.read(line[1]))
            except SpecError as error:
                first = first or error
            if len(found) == limit:
                break
    if not found:
        raise first or SpecError(f"the dataset `{dataset}` has no row that can be used")
    return found


def run_sample(loaded: LoadedEngine, spec: GenerationSpec, prompts: Sequence[Prompt]) -> list[RowEvidence]:
    """Run the prompts with no strategy; return the rows in order."""
    engine = loaded.engine
    for index, prompt in enumerate(prompts):
        engine.add(
            Request(
                key=index,
                prompt_token_ids=prompt.token_ids,
                max_new_tokens=spec.max_new_tokens,
                sampling=spec.sampling,
                bad_words=prompt.bad_words,
                stream=index,
                trace=True,
            )
        )
    done: dict[int, Finished] = {}
    while engine.has_work:
        done.update((finished.key, finished) for finished in engine.step())
    return [_evidence(prompt, done[index], engine.vocabulary) for index, prompt in enumerate(prompts)]


def _evidence(prompt: Prompt, finished: Finished, vocabulary: Vocabulary) -> RowEvidence:
    """Return what one answer shows."""
    request = prompt.request
    text = request.prompt if request.turns is None else request.turns[-1]["content"]
    probs = finished.trace.probs or ()
    return RowEvidence(
        prompt=text or "",
        text=finished.text,
        verdict=finished.verdict,
        tokens=len(finished.token_ids),
        prompt_tokens=finished.prompt_tokens,
        end_token=finished.end_token_id,
        prompt_begin=prompt.token_ids[:2],
        probs=probs,
        sentence_probs=_at_sentence_ends(finished.token_ids, probs, vocabulary),
        rank_max=finished.trace.rank_max or 0,
        hidden_steps=finished.trace.hidden_steps,
        loop=_loop(finished.token_ids, vocabulary),
    )


def _at_sentence_ends(
    token_ids: Sequence[int], probs: Sequence[float], vocabulary: Vocabulary
) -> tuple[float, ...]:
    """Return the EOS probabilities of the steps at which the text may end."""
    state, found = START, []
    for step, prob in enumerate(probs):
        if state >= LANDED:
            found.append(prob)
        if step < len(token_ids):
            state = advance(state, vocabulary.bytes_of(token_ids[step]))
    return tuple(found)


def _loop(token_ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """Return the stretch that the answer repeats in the end, or nothing."""
    answer = AnswerText(vocabulary)
    watcher = NoLoops().watcher()
    for token_id in token_ids:
        answer.append(token_id)
        ending = watcher.see(answer, last=False)
        if isinstance(ending, EndHere):
            return answer.text[max(0, ending.text_length - 60) : ending.text_length]
    return ""
