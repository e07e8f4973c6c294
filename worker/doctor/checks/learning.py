"""Checks of what the weights have learned: scores that are numbers, an EOS that is probable at the end."""

from dataclasses import replace
from statistics import mean, median

from endmark.jobs.spelling import as_percent
from endmark.worker.doctor import commands
from endmark.worker.doctor.evidence import Evidence, RowEvidence
from endmark.worker.doctor.findings import Finding, Level

NEVER = 0.05  # an EOS probability that stays below this was not learned
FIRM = 0.5  # one that reaches this is chosen at temperature 0
_TELLING = 100  # tokens of an answer at the end of which most good models would have thought of ending


def scores_not_numbers(evidence: Evidence) -> Finding | None:
    """Scores that are no numbers: nothing can be said of ending, for nothing was answered."""
    broken = [row for row in evidence.rows if row.not_numbers]
    if not broken:
        return None
    where = f" with the adapter `{evidence.facts.adapter}`" if evidence.facts.adapter else ""
    return Finding(
        "scores are no numbers",
        Level.CAUSE,
        f"The model{where} computes NaN or infinity where scores should be, so these answers failed",
        f"{len(broken)} of {len(evidence.rows)} answers; the first said: {broken[0].verdict.error}",
        "check the weights for NaN (training that diverged), try without the adapter, or a GPU that has bf16 "
        "(fp16 ends at 65,504)",
        commands.look(replace(evidence.facts, adapter=None)),
    )


def eos_not_learned(evidence: Evidence) -> Finding | None:
    """EOS stays improbable where answers should end.

    Asked without its template, cut early, or closing with a token that no file names, a model may know it well.
    """
    facts = evidence.facts
    cut = [row for row in evidence.cut if not row.in_thought and not (evidence.ended and _says_nothing(row))]
    blind = facts.has_chat_template and not evidence.templated
    if not cut or blind or facts.unnamed_end is not None:
        return None
    best = max(row.prob_max for row in cut)
    after = [prob for row in cut for prob in row.sentence_probs]
    seen = f"in {len(cut)} cut answers its highest probability was {as_percent(best, 2)}"
    seen += f", after the {len(after)} sentence ends {as_percent(mean(after), 2)} on average" if after else ""
    longest = max(row.answer_tokens for row in cut)
    if best < NEVER and longest < _TELLING:
        return Finding(
            "budget too short to tell",
            Level.CAUSE,
            "EOS was never probable, but a model that knows how to end might not have wanted to yet",
            f"{seen}; the longest was cut after {longest} tokens",
            "look again with `--max-new-tokens 256`; if it stays so, `endmark finetune`",
            commands.look(facts, "--max-new-tokens 256"),
        )
    if best < NEVER and not evidence.ended:
        return Finding(
            "EOS never learned",
            Level.CAUSE,
            "The model has not learned to end: EOS is never probable, not even where a sentence ends",
            seen,
            "train it on answers that end with EOS: `endmark finetune`; until then `--strategy whole`",
            commands.train(facts),
        )
    if median(row.prob_max for row in cut) >= FIRM:
        return None
    return Finding(
        "EOS weakly learned",
        Level.CAUSE,
        "The model knows EOS but seldom prefers it, as after training on many answers that were not closed",
        seen,
        "`--strategy whole` ends where an answer is whole now; `endmark finetune` on closed answers fixes it",
        commands.run(facts, "--strategy whole"),
    )


def _says_nothing(row: RowEvidence) -> bool:
    """Whether a cut row says nothing of what was learned, where others ended.

    In a loop no model comes to its end, and a thought may have left the answer no room for one.
    """
    return bool(row.loop) or (row.thought_tokens > 0 and row.answer_tokens < _TELLING)


def end_rows_untrained(evidence: Evidence) -> Finding | None:
    """The token that closes an answer is one that no training ever reached."""
    facts = evidence.facts
    closing = facts.closing
    if closing is None or closing not in facts.untrained_ends:
        return None
    others = [item for item in facts.used_eos if item not in facts.untrained_ends]
    who = (
        f"and the adapter `{facts.adapter}` does not train it" if facts.adapter else "so no answer can end with it"
    )
    instead = facts.name(others[0]) if others else "one that the model knows"
    return Finding(
        "end rows untrained",
        Level.CAUSE if evidence.cut else Level.RISK,
        f"The row of the output layer for the token that closes an answer was never trained, {who}",
        f"the row of {facts.name(closing)} is nothing, the mean of all rows, or the same as an unused token's; "
        f"{evidence.share_cut}",
        f"let the chat template close answers with {instead} and train again, or train the output layer too and "
        "merge it into the model",
        commands.train(facts),
    )
