"""From a row's cells to the token ids that the model sees: prompt strategies, chat template, tokeniser."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from endmark.jobs.errors import EndmarkError, MissingDependency, SpecError
from endmark.jobs.prompts import PromptPlan, RowRequest
from endmark.jobs.shapes import Shape
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import Strategy
from endmark.jobs.strategies.baseline import Baseline
from endmark.jobs.thinking import Marks, prefilled
from endmark.worker.engine.choices import Choices
from endmark.worker.engine.healing import Healed
from endmark.worker.engine.masks import TokenMask
from endmark.worker.engine.thought import Thought
from endmark.worker.process.traces import described
from endmark.worker.service.bad_words import BadWords
from endmark.worker.service.control_tokens import ControlTokens
from endmark.worker.service.thinking import Thinking

log = logging.getLogger(__name__)


class Masks(Protocol):
    """What makes masks of shapes; see `worker.shapes.compiled.Shapes`."""

    def maker(self, shape: Shape, begun: str = "") -> Callable[[Sequence[int], int], TokenMask]:
        """Return what makes the mask of an answer from its first tokens and the budget that is left."""

    def heal(self, token_ids: Sequence[int]) -> Healed | None:
        """Return a prompt without its last tokens, where an answer may go on inside them."""

    def free(self, begun: bytes) -> Callable[[Sequence[int], int], TokenMask]:
        """Return what makes the mask of an answer that begins with bytes, and has no shape."""

    def choices(self, shape: Shape, encode: Callable[[Sequence[str]], Sequence[Sequence[int]]]) -> Choices | None:
        """Return the labels of a shape as they are scored; None where it has none, or one cannot be written."""


class Tokenizer(Protocol):
    """What is used of a fast Hugging Face tokeniser."""

    chat_template: Any

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Return `input_ids`, a list for each text."""

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        **template_args: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Return the conversation as text."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A row as the model is to see it, with the spec that its own columns have made of the job's."""

    spec: GenerationSpec
    request: RowRequest
    token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()  # those of its sampling, as the engine takes them
    mask: Callable[[Sequence[int], int], TokenMask] | None = None  # of its shape, as the engine takes it
    choices: Choices | None = None  # its labels, where they are scored instead of an answer being drawn
    error: str | None = None  # why the row cannot be run
    control_text: bool = False  # whether the row's own text holds that of control tokens
    thought: Thought | None = None  # None for a model that does not think
    closing: tuple[int, ...] = ()  # tokens that close its thought, where a strategy may put them in
    begun: str = ""  # what was cut off the prompt, which the answer begins with


class Prompter:
    """Makes the prompts of one model's rows.

    Args:
        tokenizer: the model's.
        shapes: makes the masks of rows with a shape; without it they are refused.
        adapters: that rows may name at once, as `Capacity.adapters` says.
    """

    def __init__(self, tokenizer: Tokenizer, shapes: Masks | None = None, adapters: int = 0) -> None:
        self._tokenizer = tokenizer
        self._shapes = shapes
        self._adapters = adapters
        self._control = ControlTokens(tokenizer)
        self._words = BadWords(tokenizer)
        self._thinking = Thinking(tokenizer)

    def read(self, plan: PromptPlan, spec: GenerationSpec, rows: Iterable[Sequence[Any]]) -> list[Prompt]:
        """Return the prompts of rows, given by their cells; a row that cannot be read carries its error."""
        prompts: list[Prompt] = []
        for cells in rows:
            try:
                request = plan.read(cells)
                prompts.append(Prompt(self._overridden(spec, request), request))
            except EndmarkError as error:
                prompts.append(Prompt(spec, RowRequest(None, None, {}), error=str(error)))
            except Exception as error:
                log.exception("a row cannot be read")
                said = f"the row cannot be read: {described(error)}"
                prompts.append(Prompt(spec, RowRequest(None, None, {}), error=said))
        encoded = self.encode(prompts)
        held = sum(prompt.control_text for prompt in encoded)
        if held:
            log.warning(
                "%d of %d rows hold the text of control tokens, which %s",
                held,
                len(encoded),
                "become control tokens" if spec.allow_control_tokens else "are taken as text",
            )
        return encoded

    def _overridden(self, spec: GenerationSpec, request: RowRequest) -> GenerationSpec:
        """Return a row's spec.

        Raises:
            SpecError: it names an adapter of its own where the engine takes none.
        """
        own = spec.with_overrides(request.overrides)
        if own.adapter != spec.adapter and not self._adapters:
            raise SpecError(
                "the row names an adapter of its own, and this worker's engine has one for all its rows: "
                "`--engine vllm --max-adapters N` takes several"
            )
        return own

    def again(self, prompt: Prompt, strategies: tuple[Strategy, ...]) -> Prompt:
        """Return a row's prompt as other strategies make it."""
        spec = replace(prompt.spec, strategies=strategies)
        return self.encode([replace(prompt, spec=spec)])[0]

    def encode(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Fill in the token ids, the tokeniser called once for all rows of a kind."""
        encoded = list(prompts)
        texts: dict[tuple[bool, bool], list[tuple[int, str]]] = {}
        for index, prompt in enumerate(prompts):
            if prompt.error is not None:
                continue
            try:
                words = self._words.sequences(prompt.spec.sampling.bad_words)
                turns = _turns(prompt)
                held = self._control.are_in(turn["content"] for turn in turns)
                encoded[index] = replace(prompt, control_text=held, bad_words=words, mask=self._mask(prompt.spec))
                shielded = held and not prompt.spec.allow_control_tokens
                marks = self._thinking.marks_of(prompt.spec, turns)
                turns = self._shielded(turns, marks) if shielded else turns
                text, special = self._text(prompt.spec, turns, marks)
                thought = self._thinking.of(marks, turns, text, raw=prompt.spec.raw)
                closing = self._thinking.closing(thought, prompt.spec.strategies)
                choices = self._choices(prompt.spec, thought)
                encoded[index] = replace(encoded[index], thought=thought, closing=closing, choices=choices)
            except (SpecError, MissingDependency) as error:
                encoded[index] = replace(prompt, error=str(error))
            except Exception as error:  # a template may raise anything; the row fails with what it said
                encoded[index] = replace(prompt, error=f"the chat template refuses the row: {error}")
            else:
                texts.setdefault((special, shielded), []).append((index, text))
        for (special, shielded), items in texts.items():
            found = self._tokens([text for _, text in items], special, shielded)
            for (index, _), token_ids in zip(items, found, strict=True):
                if isinstance(token_ids, str):
                    encoded[index] = replace(encoded[index], error=token_ids)
                elif not token_ids:
                    encoded[index] = replace(encoded[index], error="the prompt has no tokens")
                else:
                    encoded[index] = self._healed(replace(encoded[index], token_ids=tuple(token_ids)))
        return encoded

    def _healed(self, prompt: Prompt) -> Prompt:
        """Return a prompt that ends inside a token without it, if that is asked for; see `worker.engine.healing`.

        Behind a chat template's own text an answer begins with a token of its own; so does one behind a thought.
        """
        spec, turns = prompt.spec, prompt.request.turns
        templated = not spec.raw and self._tokenizer.chat_template is not None
        open_ended = not templated or (turns is not None and turns[-1]["role"] == "assistant")
        if not (spec.token_healing and self._shapes and open_ended and prompt.thought is None):
            return prompt
        healed = self._shapes.heal(prompt.token_ids)
        if healed is None:
            return replace(prompt, begun="")
        if spec.shape is None:
            mask = self._shapes.free(healed.data)
        else:
            mask = self._shapes.maker(spec.shape, healed.text)
        return replace(prompt, token_ids=healed.token_ids, begun=healed.text, mask=mask, choices=None)

    def _mask(self, spec: GenerationSpec) -> Callable[[Sequence[int], int], TokenMask] | None:
        """Return what makes the masks of a row's answers; None where it has no shape."""
        if spec.shape is None:
            return None
        if self._shapes is None:
            raise SpecError("answers cannot be kept to a shape here")
        return self._shapes.maker(spec.shape)

    def _choices(self, spec: GenerationSpec, thought: Thought | None) -> Choices | None:
        """Return the labels of a row that are to be scored: of a greedy one whose scores are the model's own."""
        if spec.shape is None or self._shapes is None:
            return None
        if any(not isinstance(item, Baseline) for item in spec.strategies):
            return None
        if spec.sampling.temperature > 0 or spec.sampling.adjusts:
            return None
        thinks = thought is not None and (thought.opened or spec.template_args.get("enable_thinking") is not False)
        return None if thinks else self._shapes.choices(spec.shape, self._encoded)

    def _encoded(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return the tokens of texts, without any special ones around them."""
        found: Sequence[Sequence[int]] = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        return found

    def _shielded(self, turns: list[dict[str, str]], marks: Marks | None) -> list[dict[str, str]]:
        """Return the turns whose contents are to be tokenised as text alone, thinking marks of a prefill apart."""
        *before, last = [{**turn, "content": self._control.shield(turn["content"])} for turn in turns]
        if marks is not None and last["role"] == "assistant":
            for mark in (marks.open, marks.close):
                last["content"] = last["content"].replace(self._control.shield(mark), mark)
        return [*before, last]

    def _text(self, spec: GenerationSpec, turns: list[dict[str, str]], marks: Marks | None) -> tuple[str, bool]:
        """Return a row's text, and whether the tokeniser is to add its special tokens to it."""
        templated = not spec.raw and self._tokenizer.chat_template is not None
        if templated:
            begun = turns[-1]["content"] if turns[-1]["role"] == "assistant" else None
            text = self._tokenizer.apply_chat_template(
                turns if begun is None else turns[:-1],
                tokenize=False,
                add_generation_prompt=True,
                **spec.template_args,
            )
            # the template's text holds BOS already
            return str(text) if begun is None else prefilled(str(text), begun, marks), False
        if len(turns) > 1:
            raise SpecError("the model has no chat template, so a row can be one user turn only")
        return turns[0]["content"], True

    def _tokens(self, texts: list[str], special: bool, shielded: bool) -> Sequence[Sequence[int] | str]:
        """Return each text's token ids, or why it has none."""
        try:
            if shielded:
                return self._control.encode(texts, add_special_tokens=special)
            encoded = self._tokenizer(texts, add_special_tokens=special, verbose=False)
        except Exception as error:  # one text spoils the batch (a lone surrogate): find it
            if len(texts) == 1:
                return [f"the tokeniser refuses the prompt: {error}"]
            return [item for text in texts for item in self._tokens([text], special, shielded)]
        token_ids: Sequence[Sequence[int]] = encoded["input_ids"]
        return token_ids


def _turns(prompt: Prompt) -> list[dict[str, str]]:
    """Return a row's chat turns, with the system turn and what prompt strategies make of the user's last."""
    spec, request = prompt.spec, prompt.request
    if request.turns is not None:
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in request.turns]
    else:
        turns = [{"role": "user", "content": request.prompt or ""}]
    for turn in reversed(turns):
        if turn["role"] == "user":
            for strategy in spec.strategies:
                turn["content"] = strategy.amend_prompt(turn["content"])
            break
    if spec.system is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": spec.system})
    return turns
