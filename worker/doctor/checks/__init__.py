"""The registry of checks: each looks at the evidence and returns what it found, in plain words, or None.

To add one, write it in the file of its kind and name it in `CHECKS`; each needs nothing but the evidence, so that
it is tested in milliseconds on evidence made up for it.
"""

from collections.abc import Callable

from endmark.worker.doctor.checks import answers, learning, precision, sampling, template, thinking, tokens
from endmark.worker.doctor.evidence import Evidence
from endmark.worker.doctor.findings import Finding, Level

CHECKS: tuple[Callable[[Evidence], Finding | None], ...] = (
    learning.scores_not_numbers,
    template.chat_template_unused,
    template.chat_template_missing,
    template.base_model,
    template.template_twice,
    template.no_generation_prompt,
    tokens.bos_doubled,
    tokens.end_ids_disagree,
    tokens.eos_held_down,
    tokens.eos_hidden,
    learning.end_rows_untrained,
    learning.eos_not_learned,
    sampling.other_sampling,
    precision.four_bits,
    answers.loops,
    answers.marks_written,
    answers.ends_too_soon,
    answers.empty_answers,
    thinking.thought_unfinished,
    thinking.eos_in_thought,
    thinking.nothing_behind_thought,
    thinking.stopped_in_thought,
    thinking.thinking_not_wanted,
    answers.budget_too_small,
    answers.beyond_window,
    tokens.end_token_unknown_elsewhere,
    tokens.pad_is_eos,
)


def examine(evidence: Evidence) -> tuple[Finding, ...]:
    """Return what the checks found, causes first."""
    found = [finding for check in CHECKS if (finding := check(evidence)) is not None]
    return tuple(sorted(found, key=lambda finding: finding.level is not Level.CAUSE))
