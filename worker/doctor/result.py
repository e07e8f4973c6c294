"""All that the doctor has found, as JSON values: what its process tells the one that shows it."""

from dataclasses import asdict
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
                "completion_tokens": row.tokens,
                "eos_prob_max": row.prob_max,
                "eos_rank_max": row.rank_max,
                "hidden_steps": row.hidden_steps,
                "eos_probs": [round(prob, 6) for prob in row.probs],
            }
            for row in evidence.rows
        ],
    }
