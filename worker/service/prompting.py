"""From a row's cells to the token ids that the model sees: prompt strategies, chat template, tokeniser."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from endmark.jobs.errors import EndmarkError, SpecError
from endmark.jobs.prompts import PromptPlan, RowRequest
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import Strategy


class Tokenizer(Protocol):
    """What is used of a fast Hugging Face tokeniser."""

    chat_template: Any

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Return `input_ids`, a list for each text."""

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> Any:  # noqa: ANN401
        """Return the conversation as text."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A row as the model is to see it, with the spec that its own columns have made of the job's."""

    spec: GenerationSpec
    request: RowRequest
    token_ids: tuple[int, ...] = ()
    error: str | None = None  # why the row cannot be run


class Prompter:
    """Makes the prompts of one model's rows."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def read(self, plan: PromptPlan, spec: GenerationSpec, rows: Iterable[Sequence[Any]]) -> list[Prompt]:
        """Return the prompts of rows, given by their cells; a row that cannot be read carries its error."""
        prompts: list[Prompt] = []
        for cells in rows:
            try:
                request = plan.read(cells)
                prompts.append(Prompt(spec.with_overrides(request.overrides), request))
            except EndmarkError as error:
                prompts.append(Prompt(spec, RowRequest(None, None, {}), error=str(error)))
        return self.encode(prompts)

    def again(self, prompt: Prompt, strategies: tuple[Strategy, ...]) -> Prompt:
        """Return a row's prompt as other strategies make it."""
        spec = replace(prompt.spec, strategies=strategies)
        return self.encode([replace(prompt, spec=spec)])[0]

    def encode(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Fill in the token ids, the tokeniser called once for all rows of a kind."""
        encoded = list(prompts)
        texts: dict[bool, list[tuple[int, str]]] = {False: [], True: []}
        for index, prompt in enumerate(prompts):
            if prompt.error is not None:
                continue
            try:
                text, special = self._text(prompt)
            except Exception as error:  # a template may raise anything; the row fails with what it said
                encoded[index] = replace(prompt, error=f"the chat template refuses the row: {error}")
            else:
                texts[special].append((index, text))
        for special, items in texts.items():
            for (index, _), token_ids in zip(
                items, self._tokens([text for _, text in items], special), strict=True
            ):
                if isinstance(token_ids, str):
                    encoded[index] = replace(prompts[index], error=token_ids)
                elif not token_ids:
                    encoded[index] = replace(prompts[index], error="the prompt has no tokens")
                else:
                    encoded[index] = replace(prompts[index], token_ids=tuple(token_ids))
        return encoded

    def _text(self, prompt: Prompt) -> tuple[str, bool]:
        """Return a row's text, and whether the tokeniser is to add its special tokens to it."""
        turns = _turns(prompt)
        templated = not prompt.spec.raw and self._tokenizer.chat_template is not None
        if templated:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            return str(text), False  # the template's text holds BOS already
        if len(turns) > 1:
            raise SpecError("the model has no chat template, so a row can be one user turn only")
        return turns[0]["content"], True

    def _tokens(self, texts: list[str], special: bool) -> Sequence[Sequence[int] | str]:
        """Return each text's token ids, or why it has none."""
        if not texts:
            return []
        try:
            encoded = self._tokenizer(texts, add_special_tokens=special, verbose=False)
        except Exception as error:  # one text spoils the batch (a lone surrogate): find it
            if len(texts) == 1:
                return [f"the tokeniser refuses the prompt: {error}"]
            return [item for text in texts for item in self._tokens([text], special)]
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
