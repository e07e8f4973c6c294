"""The findings as a table on the terminal, and as JSON."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from endmark.jobs.spelling import counted
from endmark.worker.doctor.evidence import Evidence
from endmark.worker.doctor.findings import Finding, Level


def summary(evidence: Evidence) -> str:
    """Return how the sample ended, in one sentence."""
    sampling = evidence.sampling
    how = (
        f"temperature {sampling.temperature:g}, top-k {sampling.top_k or 'off'}, top-p {sampling.top_p:g}"
        if sampling.temperature
        else "temperature 0"
    )
    failed = sum(row.failed for row in evidence.rows)
    others = f"{failed} failed, " if failed else ""
    return (
        f"of {counted(len(evidence.rows), 'answer')} {others}{len(evidence.cut)} ran out of "
        f"{counted(evidence.budget, 'token')} and {len(evidence.ended)} ended by the model's own EOS ({how})"
    )


def print_table(evidence: Evidence, findings: tuple[Finding, ...], console: Console) -> None:
    """Print the findings, causes first."""
    console.print(Text(f"{evidence.facts.model}: {summary(evidence)}", style="bold"))
    if not findings:
        console.print(Text("Nothing found that would keep this model from stopping."))
        return
    table = Table(show_lines=True)
    table.add_column("finding", ratio=3)
    table.add_column("evidence", ratio=4)
    table.add_column("fix", ratio=4)
    for finding in findings:
        style = "bold red" if finding.level is Level.CAUSE else "yellow"
        label = Text.assemble((f"{finding.level}: {finding.check}\n", style), finding.title)
        table.add_row(label, Text(finding.evidence), Text(finding.fix))
    console.print(table)


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
                "completion_tokens": row.tokens,
                "eos_prob_max": row.prob_max,
                "eos_rank_max": row.rank_max,
                "hidden_steps": row.hidden_steps,
                "eos_probs": [round(prob, 6) for prob in row.probs],
            }
            for row in evidence.rows
        ],
    }
