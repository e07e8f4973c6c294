"""Evidence from a job that has run: the file that `endmark export --trace` wrote, and the model's own files."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from endmark.db.export.traces import no_trace, trace_head
from endmark.jobs.endings import ending_of
from endmark.jobs.errors import UsageError
from endmark.jobs.sampling import Sampling
from endmark.jobs.vocabulary import EosSource, FinishReason, Part, Verdict
from endmark.worker.doctor.evidence import Evidence, RowEvidence
from endmark.worker.doctor.facts import read_facts, read_generation_config, read_weights
from endmark.worker.doctor.sampled import loop_in
from endmark.worker.models.adapters import model_folder
from endmark.worker.models.end_tokens import end_token_ids
from endmark.worker.models.loader import load_tokenizer, model_path


def read_traced(path: str, *, limit: int, model: str | None = None) -> Evidence:
    """Return the evidence that a trace holds; no weights are loaded.

    Args:
        path: of a file that `endmark export JOB --trace FILE` wrote.
        limit: the most rows to take, from the first on.
        model: where its files are now, if not where the job had them.

    Raises:
        UsageError: the file cannot be read, or is none of these.
        ModelError: the model's files are not there.
    """
    about, rows = _read(path, limit)
    name = model or about["model"]
    folder = model_path(name)
    tokenizer = load_tokenizer(folder)
    config = read_generation_config(folder)
    shape = AutoConfig.from_pretrained(folder)
    eos_ids = end_token_ids(config, shape, tokenizer, vocabulary=shape.get_text_config().vocab_size)
    facts = read_facts(name, about["adapter"], tokenizer, config, eos_ids)
    return Evidence(
        facts=read_weights(facts, shape, model_folder(folder)),
        rows=tuple(rows),
        templated=tokenizer.chat_template is not None and not about["raw"],
        sampling=Sampling.from_json(about["sampling"]),
        budget=about["max_new_tokens"],
    )


def _read(path: str, limit: int) -> tuple[dict[str, Any], list[RowEvidence]]:
    """Return what a trace says of its job, and its rows."""
    rows: list[RowEvidence] = []
    about, number = trace_head(path), 1
    try:
        with Path(path).open(encoding="utf-8") as file:
            next(file)
            for line in file:
                number += 1
                if len(rows) == limit:
                    break
                rows.append(_row(json.loads(line)))
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise no_trace(path, number, error) from error
    if not any(row.probs or row.failed for row in rows):
        raise UsageError(
            f"`{path}` holds no step's EOS probability", hint="give `--trace` when the job is submitted or run"
        )
    return about, rows


def _row(line: dict[str, Any]) -> RowEvidence:
    """Return one row of a trace. Its tokens are not known, so nothing is said of its sentence ends."""
    source = line["eos_source"]
    text = line["response"]
    loop, changes = loop_in(text)
    reason = FinishReason(line["finish_reason"])
    return RowEvidence(
        prompt=line["prompt"],
        text=text,
        verdict=Verdict(reason, EosSource(source) if source else None, error=line.get("error")),
        tokens=line["completion_tokens"],
        prompt_tokens=line.get("prompt_tokens", 0),  # which older traces lack
        probs=tuple(line["eos_probs"] or ()),
        rank_max=line["eos_rank_max"] or 0,
        hidden_steps=line["eos_hidden_steps"],
        loop=text[-60:] if reason is FinishReason.REPETITION else loop,
        loop_changes=changes,
        ending=ending_of(text, cut=reason.truncated),
        in_thought=line.get("ended_in") == Part.REASONING,  # which older traces lack
        thought_tokens=line.get("reasoning_tokens", 0),
    )
