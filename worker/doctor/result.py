"""All that the doctor has found, as JSON values: what its process tells the one that shows it."""

from collections import Counter
from dataclasses import asdict, replace
from typing import Any

from endmark.worker.doctor.evidence import Evidence
from endmark.worker.doctor.findings import Finding


def as_json(evidence: Evidence, findings: tuple[Finding, ...]) -> dict[str, Any]:
    """Return all of it as JSON values."""
    facts = asdict(evidence.facts)
    del facts["token_names"]
    return {
        "model": evidence.facts.model,
        "adapter": evidence.facts.adapter,
        "answers": len(evidence.rows),
        "ended": len(evidence.ended),
        "truncated": len(evidence.cut),
        "end_tokens": _end_tokens(evidence),
        "loops": len(evidence.looping),
        "greedy": _greedy(evidence),
        "sixteen_bits": _sixteen_bits(evidence),
        "failed": sum(row.failed for row in evidence.rows),
        "max_new_tokens": evidence.budget,
        "chat_template_used": evidence.templated,
        "sampling": asdict(evidence.sampling),
        "findings": [asdict(finding) for finding in findings],
        "facts": facts,
        "rows": [
            {
                "prompt": row.prompt,
                "response": row.text,
                "finish_reason": row.verdict.finish_reason,
                "eos_source": row.verdict.eos_source,
                "error": row.verdict.error,
                "prompt_tokens": row.prompt_tokens,
                "completion_tokens": row.tokens,
                "end_token": row.end_token,
                "ending": row.ending,
                "loop": row.loop,
                "eos_prob_max": row.prob_max,
                "eos_rank_max": row.rank_max,
                "hidden_steps": row.hidden_steps,
                "eos_probs": [round(prob, 6) for prob in row.probs],
            }
            for row in evidence.rows
        ],
    }


def _greedy(evidence: Evidence) -> dict[str, int] | None:
    """Return how the same prompts ended at temperature 0; None where the sample itself is greedy."""
    if not evidence.greedy:
        return None
    once = replace(evidence, rows=evidence.greedy)
    return {
        "answers": len(once.rows),
        "ended": len(once.ended),
        "truncated": len(once.cut),
        "loops": len(once.looping),
    }


def _sixteen_bits(evidence: Evidence) -> dict[str, Any] | None:
    """Return how the same prompts ended in 16 bits; None where they were not answered so.

    `same` counts answers that 4 bits leave as they are, to the letter; `ends` has the EOS probability where the
    model in 16 bits ended by itself, its own and that in 4 bits there.
    """
    other = evidence.sixteen_bits
    if other is None:
        return None
    return {
        "answers": len(other.rows),
        "ended": other.ended,
        "truncated": sum(row.cut for row in other.rows),
        "loops": other.looping,
        "same": sum(row.text == full.text for row, full in zip(evidence.rows, other.rows, strict=True)),
        "ends": [[round(full, 6), round(packed, 6)] for full, packed in other.ends],
    }


def _end_tokens(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the end tokens that were sampled, the commonest first, with their texts and counts."""
    counts = Counter(row.end_token for row in evidence.rows if row.end_token is not None)
    names = evidence.facts.token_names
    return [{"id": item, "text": names.get(item, ""), "answers": count} for item, count in counts.most_common()]
