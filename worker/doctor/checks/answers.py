"""Checks of the answers: what they end in, and how much room they had."""

import json
import re
from shlex import quote
from statistics import median

from endmark.jobs.spelling import as_percent
from endmark.jobs.vocabulary import Ending
from endmark.worker.doctor import commands
from endmark.worker.doctor.evidence import Evidence
from endmark.worker.doctor.findings import Finding, Level

LOOPING = 0.1  # share of answers in a loop that makes it a cause
_BROKEN = 0.1  # share of answers that end too soon, or empty, that makes it a cause
_SURE = 0.5  # an EOS probability below which a draw has ended the answer and not the model's mind
_NEXT_TURN = re.compile(
    r"\n((?:#+ ?)?(?:User|USER|Human|HUMAN|Instruction):|### ?(?:User|Human|Instruction|Input)\b)"
)


def loops(evidence: Evidence) -> Finding | None:
    """Answers that repeat one stretch, exactly or with what changes from round to round."""
    looping, greedy = evidence.looping, [row for row in evidence.greedy if row.loop]
    if not looping and not greedy:
        return None
    quoted = (looping or greedy)[0].loop.strip()
    quoted = quoted if len(quoted) <= 60 else quoted[:57] + "…"
    changing = sum(row.loop_changes for row in looping)
    seen = f"{len(looping)} of {len(evidence.rows)} answers"
    seen += f", {changing} of them with words or numbers that change from round to round" if changing else ""
    seen += f"; at temperature 0, {len(greedy)} of {len(evidence.greedy)}" if evidence.greedy else ""
    return Finding(
        "loops",
        Level.CAUSE if len(looping) >= LOOPING * len(evidence.rows) > 0 else Level.RISK,
        "Answers fall into a loop and repeat one stretch until the budget ends",
        f"{seen}; one has “{quoted}” over and over",
        "`--strategy whole` takes them back to the first copy and goes on otherwise, `no-loops` ends them there; "
        "a temperature of 0.7 makes loops rarer",
        commands.run(evidence.facts, "--strategy whole"),
    )


def ends_too_soon(evidence: Evidence) -> Finding | None:
    """Answers that the model ended by itself in the middle of a sentence or a block."""
    soon = [row for row in evidence.ended if row.ending is Ending.OPEN]
    if len(soon) < max(1, _BROKEN * len(evidence.rows)):
        return None
    last = [row.probs[-1] for row in soon if row.probs]
    drawn = bool(evidence.sampling.temperature and last and median(last) < _SURE)
    shown = f"; EOS stood at {as_percent(median(last), 1)} there, in the middle of them" if last else ""
    least = max(1, round(median(row.tokens for row in evidence.ended)))
    return Finding(
        "ends too soon",
        Level.CAUSE,
        "The model ends answers by itself where they are not whole",
        f"{len(soon)} of {len(evidence.rows)} answers, one with “…{soon[0].text.rstrip()[-40:]}”{shown}",
        "EOS was drawn where it was improbable: sample with a lower temperature, or with `--min-p 0.1`"
        if drawn
        else f"`--min-new-tokens {least}` keeps EOS away until then; training on whole answers is the cure",
        commands.run(evidence.facts, "--min-p 0.1" if drawn else f"--min-new-tokens {least}"),
    )


def empty_answers(evidence: Evidence) -> Finding | None:
    """Answers that ended before they said anything."""
    empty = [
        row for row in evidence.rows if row.ending is Ending.EMPTY and not row.failed and not row.thought_tokens
    ]
    if not empty:
        return None
    ended = sum(row.ended for row in empty)
    return Finding(
        "empty answers",
        Level.CAUSE if len(empty) >= _BROKEN * len(evidence.rows) else Level.RISK,
        "Answers end before they say anything",
        f"{len(empty)} of {len(evidence.rows)} answers are empty, {ended} by the model's own EOS; the first was "
        f"to “{empty[0].prompt[:40]}”",
        "look at the prompt as the model sees it: one that ends with an end token, or in the middle of a turn, is "
        "answered so; `--min-new-tokens 8` makes the model say something",
        commands.run(evidence.facts, "--min-new-tokens 8"),
    )


def marks_written(evidence: Evidence) -> Finding | None:
    """Answers that go on with the next turn: its marks as text, or as special tokens that end nothing."""
    facts = evidence.facts
    texts = [text for text in facts.token_names.values() if len(text) > 2]
    texts += facts.turn_marks
    found: dict[str, int] = {}
    stop = ""
    rows = [row for row in evidence.rows if not row.failed]
    for row in rows:
        written = [text for text in texts if text in row.text and text not in row.prompt]
        written += [match[1] for match in _NEXT_TURN.finditer(row.text) if match[1] not in row.prompt][:1]
        special = [facts.name(item) for item in dict.fromkeys(row.special)]
        stop = stop or (f"text={json.dumps(written[0])}" if written else "")
        stop = stop or (f"tokens={row.special[0]}" if special else "")
        for name in dict.fromkeys([*(f"`{text}` as text" for text in written), *special]):
            found[name] = found.get(name, 0) + 1
    if not found:
        return None
    return Finding(
        "marks written",
        Level.CAUSE if evidence.cut else Level.RISK,
        "Answers hold marks of the chat template, as where the model goes on with the user's next turn",
        f"of {len(rows)} answers, " + ", ".join(f"{count} with {name}" for name, count in found.items()),
        "stop there with the strategy `stop`; a model that writes end marks as text was trained on them as text: "
        "train it on chats whose marks are control tokens, as `endmark finetune` writes them",
        commands.run(facts, f"--strategy {quote(f'whole;stop:{stop}')}"),
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
        commands.run(evidence.facts, f"--max-new-tokens {2 * evidence.budget}"),
    )


def beyond_window(evidence: Evidence) -> Finding | None:
    """Prompts and budgets that go past the length of the rows that the model was trained on."""
    window = evidence.facts.window
    longest = max((row.prompt_tokens for row in evidence.rows), default=0)
    if window is None or longest + evidence.budget <= window:
        return None
    reached = [row for row in evidence.cut if row.prompt_tokens + row.tokens >= window]
    room = max(1, window - longest)
    return Finding(
        "beyond the window",
        Level.CAUSE if reached else Level.RISK,
        "Prompt and budget together are longer than the rows that the model was trained on",
        f"prompts have up to {longest} tokens, the budget is {evidence.budget}, and the model was trained on rows "
        f"of {window}; {len(reached)} of {len(evidence.rows)} answers were cut there or beyond",
        f"give `--max-new-tokens {room}` or shorter prompts, or take a model with a longer context",
        commands.run(evidence.facts, f"--max-new-tokens {room}"),
    )
