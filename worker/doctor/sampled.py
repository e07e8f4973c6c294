"""From an answer that the engine has finished to what the checks see of it."""

from collections.abc import Collection, Sequence

from endmark.jobs.endings import ending_of
from endmark.jobs.endings.loops import loop_near_end
from endmark.jobs.landing import LANDED, START, advance
from endmark.worker.doctor.evidence import RowEvidence
from endmark.worker.engine.request import Finished
from endmark.worker.engine.text import Vocabulary
from endmark.worker.service.prompting import Prompt

_OFF = ("/no_think", "/nothink", "detailed thinking off")  # of Qwen3 and SmolLM3, of GLM, and of Nemotron
_QUOTED = 60  # characters of a loop that are shown
_BETWEEN = " \n.,;:!?"


def row_evidence(
    prompt: Prompt, finished: Finished, vocabulary: Vocabulary, special: Collection[int]
) -> RowEvidence:
    """Return what one answer shows.

    Args:
        prompt: that was answered.
        finished: the answer, with its trace.
        vocabulary: of the model's tokeniser.
        special: ids of the special tokens, which leave no text.
    """
    request = prompt.request
    asked = request.prompt if request.turns is None else request.turns[-1]["content"]
    probs = finished.trace.probs or ()
    text, verdict = finished.text, finished.verdict
    loop, changes = loop_in(text)
    marks = {item for item, _ in prompt.thought.shown} if prompt.thought is not None else set()
    behind = finished.reasoning_tokens
    return RowEvidence(
        prompt=asked or "",
        text=text,
        verdict=verdict,
        tokens=len(finished.token_ids),
        prompt_tokens=finished.prompt_tokens,
        token_ids=finished.token_ids,
        end_token=finished.end_token_id,
        prompt_begin=prompt.token_ids[:2],
        probs=probs,
        sentence_probs=_at_sentence_ends(finished.token_ids[behind:], probs[behind:], vocabulary),
        rank_max=finished.trace.rank_max or 0,
        hidden_steps=finished.trace.hidden_steps,
        loop=loop,
        loop_changes=changes,
        ending=ending_of(text, cut=verdict.truncated),
        special=tuple(item for item in finished.token_ids if item in special and item not in marks),
        in_thought=finished.in_thought,
        thought_tokens=finished.reasoning_tokens,
        asked_off=asks_for_no_thought(prompt),
    )


def asks_for_no_thought(prompt: Prompt) -> bool:
    """Whether a row asks for no thought: by an argument of its template, or by a word that models were taught."""
    given, request = prompt.spec.template_args, prompt.request
    turns = [turn["content"] for turn in request.turns or ()]
    texts = [prompt.spec.system or "", request.prompt or "", *turns]
    off = False in (given.get("enable_thinking"), given.get("thinking")) or given.get("reasoning_effort") == "none"
    return off or any(word in text for text in texts for word in _OFF)


def loop_in(text: str) -> tuple[str, bool]:
    """Return the stretch that a text repeats in its end, or nothing, and whether the copies differ."""
    found = loop_near_end(text)
    if found is None:
        return "", False
    first = text[found.start : found.kept]
    words = first.lstrip(_BETWEEN) or first  # a loop may begin behind the sentence that led into it
    if len(words) > _QUOTED:
        words = f"{words[:_QUOTED].rpartition(' ')[0] or words[:_QUOTED]}…"
    return words, not text.startswith(first, found.kept)


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
