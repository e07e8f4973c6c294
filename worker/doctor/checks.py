"""The registry of checks: each looks at the evidence and returns what it found, in plain words, or None.

To add one, write it here and name it in `CHECKS`; each needs nothing but the evidence, so that it is tested in
milliseconds on evidence made up for it.
"""

import re
from collections.abc import Callable
from statistics import mean, median

from endmark.worker.doctor.evidence import Evidence
from endmark.worker.doctor.findings import Finding, Level

NEVER = 0.05  # an EOS probability that stays below this was not learned
FIRM = 0.5  # one that reaches this is chosen at temperature 0
_TELLING = 100  # tokens of an answer at the end of which most good models would have thought of ending
_LOOPING = 0.1  # share of answers in a loop that makes it a cause
_CHAT_NAME = re.compile(r"chat|instruct|assistant|(?<![a-z])(?:it|rlhf|dpo|sft)(?![a-z])", re.IGNORECASE)


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
    )


def chat_template_unused(evidence: Evidence) -> Finding | None:
    """The model has a chat template and the prompts went around it."""
    if not evidence.facts.has_chat_template or evidence.templated:
        return None
    return Finding(
        "chat template not used",
        Level.CAUSE if evidence.cut else Level.RISK,
        "The model was trained on its chat template, and the prompts were sent without it",
        f"the tokeniser has a chat template; {_share(evidence)}",
        "leave out `--raw`; in other code call `tokenizer.apply_chat_template(…, add_generation_prompt=True)`",
    )


def chat_template_missing(evidence: Evidence) -> Finding | None:
    """A chat model whose tokeniser has lost its template."""
    facts = evidence.facts
    if facts.has_chat_template or not _CHAT_NAME.search(facts.model):
        return None
    return Finding(
        "no chat template",
        Level.CAUSE if evidence.cut else Level.RISK,
        "The name says chat model, but the tokeniser has no chat template, so prompts arrive bare",
        f"no `chat_template` in the tokeniser's files of `{facts.model}`; {_share(evidence)}",
        "add the model's chat_template.jinja to its folder, or write the turns into `--template`",
    )


def base_model(evidence: Evidence) -> Finding | None:
    """A model that only continues text has no notion of an answer's end."""
    facts = evidence.facts
    if facts.has_chat_template or _CHAT_NAME.search(facts.model) or not evidence.cut:
        return None
    return Finding(
        "base model",
        Level.CAUSE,
        "This looks like a base model: it goes on writing and was not trained to answer and stop",
        f"no chat template, and nothing in the name `{facts.model}` says chat or instruct; {_share(evidence)}",
        "use the chat or instruct version, or train it on closed answers with `endmark finetune`; until then "
        "`--strategy soft-landing`",
    )


def template_twice(evidence: Evidence) -> Finding | None:
    """Prompts that hold the template's marks and went through the template once more."""
    marks = [text for text in evidence.facts.token_names.values() if len(text) > 2]
    found = [row for row in evidence.rows if any(mark in row.prompt for mark in marks)]
    if not evidence.templated or not found:
        return None
    mark = next(mark for mark in marks if mark in found[0].prompt)
    return Finding(
        "template twice",
        Level.CAUSE if evidence.cut else Level.RISK,
        "The prompts already hold the chat template's marks, and the template was put around them again",
        f"{len(found)} of {len(evidence.rows)} prompts hold `{mark}`",
        "give `--raw`, or take the marks out of the dataset",
    )


def bos_doubled(evidence: Evidence) -> Finding | None:
    """Two begin tokens, which the model has never seen in training."""
    facts = evidence.facts
    doubled = [
        row for row in evidence.rows if facts.bos is not None and row.prompt_begin == (facts.bos, facts.bos)
    ]
    if doubled and facts.bos is not None:
        return Finding(
            "BOS doubled",
            Level.CAUSE if evidence.cut else Level.RISK,
            "Prompts begin with two begin tokens",
            f"{len(doubled)} of {len(evidence.rows)} prompts begin with {facts.name(facts.bos)} twice",
            "take the begin token out of the dataset's text: it is added once already",
        )
    if facts.template_adds_bos and facts.tokenizer_adds_bos and facts.bos is not None:
        return Finding(
            "BOS doubled",
            Level.RISK,
            "The chat template writes the begin token and the tokeniser adds it again",
            f"both begin with {facts.name(facts.bos)}; Endmark tokenises the template's text without adding it",
            "in other code, and in training, tokenise that text with `add_special_tokens=False`",
        )
    return None


def end_ids_disagree(evidence: Evidence) -> Finding | None:
    """Files that name different end tokens, or none of them the one that closes a turn."""
    facts = evidence.facts
    listed = ", ".join(facts.name(item) for item in facts.generation_eos) or "none"
    if facts.unnamed_end is not None:
        return Finding(
            "end ids disagree",
            Level.CAUSE,
            "The chat template closes an answer with a token that no file names as an end token",
            f"it closes with {facts.name(facts.unnamed_end)}; the generation config ends with {listed}",
            f"add {facts.unnamed_end} to `eos_token_id` in generation_config.json (a list is allowed)",
        )
    missing = [
        item
        for item in (facts.tokenizer_eos, facts.turn_end)
        if item is not None and item not in facts.generation_eos
    ]
    if not missing:
        return None
    return Finding(
        "end ids disagree",
        Level.RISK,
        "The tokeniser and the generation config do not name the same end tokens",
        f"missing in the generation config: {', '.join(map(facts.name, dict.fromkeys(missing)))}; it ends with "
        f"{listed}; Endmark ends with all of them",
        "list all of them as `eos_token_id` in generation_config.json; other programs read only that",
    )


def pad_is_eos(evidence: Evidence) -> Finding | None:
    """Padding that looks like an ending, and hides EOS from training."""
    facts = evidence.facts
    if facts.pad is None or facts.pad not in facts.used_eos:
        return None
    return Finding(
        "pad is EOS",
        Level.RISK,
        "The padding token is an end token",
        f"both are {facts.name(facts.pad)}: a padded row looks ended, and training code that masks padding masks "
        "EOS out of the labels, so the model never learns it",
        "give the tokeniser another pad token before training (`endmark finetune` does); Endmark pads no prompt",
    )


def eos_hidden(evidence: Evidence) -> Finding | None:
    """Top-k or top-p leaves EOS out even where it is most probable."""
    sampling, cut = evidence.sampling, evidence.cut
    hidden = [row for row in cut if row.probs and row.hidden_steps == len(row.probs)]
    if hidden:
        settings = [f"top-k {sampling.top_k}"] if sampling.top_k else []
        settings += [f"top-p {sampling.top_p:g}"] if sampling.top_p < 1 else []
        best = max(hidden, key=lambda row: row.prob_max)
        return Finding(
            "EOS hidden",
            Level.CAUSE,
            f"{' and '.join(settings).capitalize()} never left an end token to choose",
            f"{len(hidden)} of {len(cut)} cut answers had none in any step; at its best EOS stood at "
            f"{best.prob_max:.1%}, rank {best.rank_max + 1}. A score of minus infinity means this, not impossible",
            "raise or leave out top-k and top-p, or take `--strategy soft-landing`, which acts before them",
        )
    top_k = evidence.facts.generation_top_k
    beyond = [row for row in cut if row.rank_max >= top_k]
    if sampling.temperature or not top_k or len(beyond) * 2 <= len(cut):
        return None
    return Finding(
        "EOS hidden",
        Level.RISK,
        f"With transformers' top-k of {top_k}, EOS could not be chosen even at its best",
        f"in {len(beyond)} of {len(cut)} cut answers its best rank was {min(row.rank_max for row in beyond) + 1} "
        "or worse",
        "set `top_k=0` when sampling, or raise EOS with `--strategy soft-landing`",
    )


def eos_not_learned(evidence: Evidence) -> Finding | None:
    """EOS stays improbable where answers should end.

    Asked without its template, cut early, or closing with a token that no file names, a model may know it well.
    """
    cut, facts = evidence.cut, evidence.facts
    blind = facts.has_chat_template and not evidence.templated
    if not cut or blind or facts.unnamed_end is not None:
        return None
    best = max(row.prob_max for row in cut)
    after = [prob for row in cut for prob in row.sentence_probs]
    seen = f"in {len(cut)} cut answers its highest probability was {best:.2%}"
    seen += f", after the {len(after)} sentence ends {mean(after):.2%} on average" if after else ""
    longest = max(row.tokens for row in cut)
    never = best < NEVER and not evidence.ended
    if never and longest < _TELLING:
        return Finding(
            "budget too short to tell",
            Level.CAUSE,
            "EOS was never probable, but a model that knows how to end might not have wanted to yet",
            f"{seen}; the longest was cut after {longest} tokens",
            "look again with `--max-new-tokens 256`; if it stays so, `endmark finetune`",
        )
    if never:
        return Finding(
            "EOS never learned",
            Level.CAUSE,
            "The model has not learned to end: EOS is never probable, not even where a sentence ends",
            seen,
            "train it on answers that end with EOS: `endmark finetune`; until then `--strategy soft-landing`",
        )
    if median(row.prob_max for row in cut) >= FIRM:
        return None
    return Finding(
        "EOS weakly learned",
        Level.CAUSE,
        "The model knows EOS but seldom prefers it, as after training on many answers that were not closed",
        seen,
        "`--strategy soft-landing` ends at a sentence end now; `endmark finetune` on closed answers fixes it",
    )


def loops(evidence: Evidence) -> Finding | None:
    """Answers that repeat one stretch."""
    looping = [row for row in evidence.rows if row.loop]
    if not looping:
        return None
    quoted = looping[0].loop.strip()
    quoted = quoted if len(quoted) <= 60 else quoted[:57] + "…"
    return Finding(
        "loops",
        Level.CAUSE if len(looping) >= _LOOPING * len(evidence.rows) else Level.RISK,
        "Answers fall into a loop and repeat one stretch until the budget ends",
        f"{len(looping)} of {len(evidence.rows)} answers, one with “{quoted}” over and over",
        "`--strategy no-loops` ends them after the first copy; a temperature of 0.7 makes loops rarer",
    )


def budget_too_small(evidence: Evidence) -> Finding | None:
    """A model that ends firmly, and answers that only needed more room."""
    ended, cut = evidence.ended, evidence.cut
    if not cut or len(ended) * 2 < len(evidence.rows) or median(row.prob_max for row in ended) < 0.9:
        return None
    longest = max(row.tokens for row in ended)
    if longest * 2 < evidence.budget:
        return None
    return Finding(
        "budget too small",
        Level.CAUSE,
        "Some answers are longer than the token budget",
        f"{len(ended)} of {len(evidence.rows)} ended by themselves, the longest after {longest} of "
        f"{evidence.budget} tokens; {len(cut)} were cut",
        "raise `--max-new-tokens`, or give `--on-truncation continue`",
    )


CHECKS: tuple[Callable[[Evidence], Finding | None], ...] = (
    scores_not_numbers,
    chat_template_unused,
    chat_template_missing,
    base_model,
    template_twice,
    bos_doubled,
    end_ids_disagree,
    eos_hidden,
    eos_not_learned,
    loops,
    budget_too_small,
    pad_is_eos,
)


def examine(evidence: Evidence) -> tuple[Finding, ...]:
    """Return what the checks found, causes first."""
    found = [finding for check in CHECKS if (finding := check(evidence)) is not None]
    return tuple(sorted(found, key=lambda finding: finding.level is not Level.CAUSE))


def _share(evidence: Evidence) -> str:
    """Return how many answers were cut, in words."""
    return f"{len(evidence.cut)} of {len(evidence.rows)} answers were cut by the budget"
