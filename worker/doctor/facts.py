"""The facts of a model's files that decide where its answers end."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from endmark.jobs.errors import ModelError
from endmark.jobs.finetuning.adapters import read_config
from endmark.jobs.finetuning.lora import read_pairs
from endmark.jobs.generation_config import own_sampling as settings_of
from endmark.jobs.sampling import Sampling
from endmark.worker.doctor.end_rows import OUTPUT_LAYERS, untrained_rows
from endmark.worker.doctor.evidence import ModelFacts
from endmark.worker.doctor.held_down import holding_down

_PROBE = "Endmark"  # stands for an answer in the chat template
_QUESTION = [{"role": "user", "content": "?"}]


def read_generation_config(path: str) -> GenerationConfig:
    """Return the model's generation config; where it has none, what transformers makes of its config.

    Raises:
        ModelError: it has no config that can be read.
    """
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:
        pass
    try:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the model `{path}`: {error}") from error


def own_sampling(config: GenerationConfig) -> Sampling:
    """Return how transformers' generate would sample with the model's own settings."""
    return Sampling(**settings_of(config.to_dict()))


def read_facts(
    model: str,
    adapter: str | None,
    tokenizer: Any,  # noqa: ANN401
    config: GenerationConfig,
    used_eos: Iterable[int],
) -> ModelFacts:
    """Return the facts of a loaded tokeniser and a generation config."""
    special = {
        token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    templated = _template(tokenizer, _QUESTION, add_generation_prompt=True)
    turn_end = _turn_end(tokenizer, special)
    ends = frozenset(used_eos) | ({turn_end} if turn_end is not None else set())
    plain = tokenizer("a")["input_ids"]
    bos = tokenizer.bos_token_id
    return ModelFacts(
        model=model,
        adapter=adapter,
        has_chat_template=tokenizer.chat_template is not None,
        token_names=special,
        tokenizer_eos=tokenizer.eos_token_id,
        generation_eos=_ids(config.eos_token_id),
        used_eos=tuple(sorted(used_eos)),
        turn_end=turn_end,
        pad=tokenizer.pad_token_id,
        bos=bos,
        template_adds_bos=bos is not None and templated.startswith(tokenizer.bos_token),
        tokenizer_adds_bos=bos is not None and plain[:1] == [bos],
        generation_top_k=_top_k(config),
        own_sampling=own_sampling(config),
        holding_down=holding_down(config.to_dict(), ends),
        turn_marks=_turn_marks(tokenizer, special),
        lacking_opening=_lacking_opening(tokenizer, templated),
    )


def read_weights(facts: ModelFacts, config: PreTrainedConfig, folder: Path) -> ModelFacts:
    """Return the facts with those of the model's sizes and weights.

    Args:
        facts: so far.
        config: the model's config.
        folder: with its files.

    Raises:
        SpecError: the adapter's folder holds none.
        ModelError: it is of a kind that cannot run.
    """
    adapter = Path(facts.adapter) if facts.adapter is not None else None
    layers = read_pairs(adapter, read_config(adapter)) if adapter is not None else {}
    ends = {*facts.used_eos} | ({facts.turn_end} if facts.turn_end is not None else set())
    trained = any(f"{name}.weight".endswith(OUTPUT_LAYERS) for name in layers)
    return replace(
        facts,
        window=_window(config.get_text_config()),
        untrained_ends=() if trained else untrained_rows(folder, sorted(ends)),
    )


def _window(config: PreTrainedConfig) -> int | None:
    """Return how many tokens the rows had that a model was trained on, before its positions were stretched."""
    stretched = getattr(config, "rope_parameters", None) or {}
    given = (stretched.get("original_max_position_embeddings"), getattr(config, "max_position_embeddings", None))
    return min((int(value) for value in given if value), default=None)


def _template(tokenizer: Any, turns: list[dict[str, str]], *, add_generation_prompt: bool) -> str:  # noqa: ANN401
    """Return the turns as the chat template writes them; nothing where there is none."""
    if tokenizer.chat_template is None:
        return ""
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    return str(text)


def _turn_marks(tokenizer: Any, special: dict[int, str]) -> tuple[str, ...]:  # noqa: ANN401
    """Return the plain text with which the chat template begins the user's next turn, words alone left out."""
    turns = [*_QUESTION, {"role": "assistant", "content": _PROBE}, {"role": "user", "content": "!"}]
    _, _, behind = _template(tokenizer, turns, add_generation_prompt=False).partition(_PROBE)
    between = behind.partition("!")[0]
    for text in sorted(filter(None, special.values()), key=len, reverse=True):
        between = between.replace(text, "\n")
    lines = (line.strip() for line in between.split("\n"))
    return tuple(line for line in lines if len(line) > 2 and not line.isalnum())


def _lacking_opening(tokenizer: Any, asked: str) -> str:  # noqa: ANN401
    """Return what the chat template writes before an answer, if it ignores that one is asked for.

    Args:
        asked: what it writes of a question, asked for the opening of the answer.
    """
    if asked != _template(tokenizer, _QUESTION, add_generation_prompt=False):
        return ""
    turns = [*_QUESTION, {"role": "assistant", "content": _PROBE}]
    before, found, _ = _template(tokenizer, turns, add_generation_prompt=False).partition(_PROBE)
    return before.removeprefix(asked).strip() if found and before.startswith(asked) else ""


def _turn_end(tokenizer: Any, special: dict[int, str]) -> int | None:  # noqa: ANN401
    """Return the special token that the chat template writes right behind an answer, if any."""
    turns = [*_QUESTION, {"role": "assistant", "content": _PROBE}]
    _, _, behind = _template(tokenizer, turns, add_generation_prompt=False).partition(_PROBE)
    found = [(behind.find(text), token_id) for token_id, text in special.items() if text and text in behind]
    position, token_id = min(found, default=(0, None))
    return token_id if not behind[:position].strip() else None


def _top_k(config: GenerationConfig) -> int:
    """Return the top-k that generate samples with; transformers' own is 50."""
    return 50 if config.top_k is None else int(config.top_k)


def _ids(value: int | Iterable[int] | None) -> tuple[int, ...]:
    """Return one id or several as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
