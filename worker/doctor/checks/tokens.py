"""Checks of the special tokens: begin, end and padding, and what keeps an end token from being chosen."""

import json
from collections import Counter

from endmark.jobs.spelling import as_percent
from endmark.worker.doctor import commands
from endmark.worker.doctor.evidence import Evidence
from endmark.worker.doctor.findings import Finding, Level


def bos_doubled(evidence: Evidence) -> Finding | None:
    """Two begin tokens, which the model has never seen in training."""
    facts = evidence.facts
    doubled = [
        row for row in evidence.rows if facts.bos is not None and row.prompt_begin == (facts.bos, facts.bos)
    ]
    if doubled and facts.bos is not None:
        text = facts.token_names.get(facts.bos, "")
        return Finding(
            "BOS doubled",
            Level.CAUSE if evidence.cut else Level.RISK,
            "Prompts begin with two begin tokens",
            f"{len(doubled)} of {len(evidence.rows)} prompts begin with {facts.name(facts.bos)} twice",
            "take the begin token out of the dataset's text: it is added once already",
            f"sed 's/{text}//g' prompts.csv > clean.csv",
        )
    if facts.template_adds_bos and facts.tokenizer_adds_bos and facts.bos is not None:
        return Finding(
            "BOS doubled",
            Level.RISK,
            "The chat template writes the begin token and the tokeniser adds it again",
            f"both begin with {facts.name(facts.bos)}; Endmark tokenises the template's text without adding it",
            "in other code, and in training, tokenise that text with `add_special_tokens=False`",
            "tokenizer(text, add_special_tokens=False)",
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
            commands.edit(facts, f".eos_token_id = {sorted({*facts.used_eos, facts.unnamed_end})}"),
        )
    missing = [
        item
        for item in (facts.tokenizer_eos, facts.turn_end)
        if item is not None and item not in facts.generation_eos
    ]
    if not missing:
        return None
    if missing == [facts.bos] and facts.template_adds_bos and facts.generation_eos:
        end = facts.token_names.get(facts.generation_eos[0], "")
        return Finding(
            "end ids disagree",
            Level.RISK,
            "The tokeniser names the token that begins a turn as its end token",
            f"its `eos_token` is {facts.name(missing[0])}, with which the chat template begins; the generation "
            f"config ends with {listed}; Endmark ends with all of them",
            "name the token that closes an answer as `eos_token` in tokenizer_config.json: other programs stop at "
            "it, and train with it",
            commands.edit(facts, f".eos_token = {json.dumps(end, ensure_ascii=False)}", "tokenizer_config.json"),
        )
    return Finding(
        "end ids disagree",
        Level.RISK,
        "The tokeniser and the generation config do not name the same end tokens",
        f"missing in the generation config: {', '.join(map(facts.name, dict.fromkeys(missing)))}; it ends with "
        f"{listed}; Endmark ends with all of them",
        "list all of them as `eos_token_id` in generation_config.json; other programs read only that",
        commands.edit(facts, f".eos_token_id = {sorted({*facts.generation_eos, *missing})}"),
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
        commands.train(facts),
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
            f"{as_percent(best.prob_max, 1)}, rank {best.rank_max + 1}. A score of minus infinity means this, not "
            "impossible",
            "raise or leave out top-k and top-p, or take `--strategy whole`, which acts before them",
            commands.run(evidence.facts, "--strategy whole"),
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
        "set `top_k=0` when sampling, or raise EOS with `--strategy whole`",
        commands.run(evidence.facts, "--strategy whole"),
    )


def eos_held_down(evidence: Evidence) -> Finding | None:
    """Settings that keep an end token from being chosen: those of this sample, and those of the model's files."""
    sampling, facts = evidence.sampling, evidence.facts
    here: dict[str, str] = {}
    if sampling.min_new_tokens:
        here["min_new_tokens"] = f"no end within {sampling.min_new_tokens} tokens"
    lowered = {item: bias for item, bias in sampling.logit_bias if item in facts.used_eos and bias < 0}
    if lowered:
        here["logit_bias"] = ", ".join(f"{facts.name(item)} by {bias:g}" for item, bias in lowered.items())
    elsewhere = {name: does for name, does in facts.holding_down.items() if name not in here}
    if not here and not elsewhere:
        return None
    holds = evidence.cut and (lowered or 2 * sampling.min_new_tokens >= evidence.budget)
    told = [f"`{name}`: {does}" for name, does in here.items()]
    told += [f"generation_config.json has `{name}`: {does}" for name, does in elsewhere.items()]
    others = "; Endmark passes over these, other programs do not" if elsewhere else ""
    change = f"del({', '.join(f'.{name}' for name in facts.holding_down)})"
    return Finding(
        "EOS held down",
        Level.CAUSE if holds else Level.RISK,
        "Settings keep the model from ending where it would",
        "; ".join(told) + others,
        "take them out of the model's generation_config.json"
        if facts.holding_down
        else "leave out `--min-new-tokens` and the bias",
        commands.edit(facts, change) if facts.holding_down else commands.run(facts),
    )


def end_token_unknown_elsewhere(evidence: Evidence) -> Finding | None:
    """Answers that ended with a token which other programs would write out and go on from."""
    facts = evidence.facts
    counts = Counter(row.end_token for row in evidence.rows if row.end_token is not None)
    unknown = {item: count for item, count in counts.items() if item not in facts.generation_eos}
    if not unknown:
        return None
    told = ", ".join(f"{count} with {facts.name(item)}" for item, count in unknown.items())
    listed = ", ".join(facts.name(item) for item in facts.generation_eos) or "none"
    return Finding(
        "end token unknown elsewhere",
        Level.RISK,
        "The model ends with a token that its generation config does not name, so other programs go on there",
        f"of {sum(counts.values())} answers that ended, {told}; the generation config names {listed}",
        "list it as `eos_token_id` in generation_config.json",
        commands.edit(facts, f".eos_token_id = {sorted({*facts.generation_eos, *unknown})}"),
    )
