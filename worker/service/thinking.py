"""How a model thinks: its marks as texts and as tokens, and whether a prompt has opened a thought."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from endmark.jobs.errors import SpecError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import Strategy, Think, thought_numbers
from endmark.jobs.thinking import Marks, find_marks, is_opened, read_marks
from endmark.worker.engine.request import Request
from endmark.worker.engine.steering import MOST_INSERTED, OPENED_LATE, Insertion, Phase
from endmark.worker.engine.thought import Thought

_CACHED = 256  # messages
_LATE = 1  # tokens that come while the host calls for a mark


def think_of(strategies: Sequence[Strategy]) -> Think | None:
    """Return the strategy `think`, if it is among them."""
    return next((item for item in strategies if isinstance(item, Think)), None)


def steered(request: Request, closing: tuple[int, ...]) -> Request:
    """Return an attempt with what its thought needs: its phase, its budgets, and what closes it.

    The device itself tells the closing mark, and strategies leave the scores alone before it. Where its tokens are
    not known beforehand the host tells, a step later.

    Args:
        request: with its thought; its budget is that of the answer where `think` is used, else of both.
        closing: the tokens that close it; none where no strategy does.
    """
    thought, think = request.thought, think_of(request.strategies)
    if thought is None:
        return request
    phase = None
    mark = thought.close_ids if thought.close_id is None else (thought.close_id,)
    if mark:
        phase = Phase(
            mark[:1],
            numbers=thought_numbers(request.strategies, request.max_new_tokens),
            eos_inserts=bool(think and think.parameters["strict"]),
            opens_with=None if thought.opened else OPENED_LATE if thought.open_id is None else thought.open_id,
            restarts=think is not None,
            mark=mark if len(mark) > 1 else (),
        )
    put_in = closing or (mark if len(mark) > 1 else ())
    insertion = Insertion(put_in) if put_in else None
    if think is None:
        return replace(request, phase=phase, insertion=insertion)
    assert insertion is not None
    return replace(
        request,
        max_new_tokens=think.budget + len(closing) + request.max_new_tokens + (0 if phase else _LATE),
        answer_budget=request.max_new_tokens,
        phase=phase,
        insertion=replace(insertion, at=think.budget) if phase else insertion,
        thought_budget=think.budget,
        eos_closes=bool(think.parameters["strict"]),
    )


class Thinking:
    """Finds the thinking marks of one model, once, and of rows whose system turn names some."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - a Hugging Face tokeniser
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._ids = {token.content: token_id for token_id, token in added.items()}
        self._special = {token.content: token_id for token_id, token in added.items() if token.special}
        self.marks = find_marks(self._ids, [str(tokenizer.chat_template or "")])
        self._tokenizer = tokenizer
        self._known: dict[Marks, Thought] = {}
        self._closings: dict[tuple[str, Marks], tuple[int, ...]] = {}

    def marks_of(self, spec: GenerationSpec, turns: Sequence[dict[str, str]]) -> Marks | None:
        """Return the marks around a row's thoughts; None if its model is not known to think."""
        if spec.thinking_marks is not None:
            return read_marks(spec.thinking_marks)
        return self.marks or find_marks((), (turn["content"] for turn in turns if turn["role"] == "system"))

    def of(self, marks: Marks | None, turns: Sequence[dict[str, str]], text: str, *, raw: bool) -> Thought | None:
        """Return what is known of a row's thoughts; None if its model is not known to think.

        Args:
            marks: around them.
            turns: its chat turns.
            text: its prompt as the model is to see it.
            raw: whether that was written by hand.
        """
        if marks is None:
            return None
        if marks not in self._known:
            self._known[marks] = self._thought(marks)
        thought = self._known[marks]
        begun = turns[-1]["role"] == "assistant"
        tail = turns[-1]["content"] if begun else text
        return replace(thought, opened=True) if is_opened(tail, marks, raw=raw or begun) else thought

    def closing(self, thought: Thought | None, strategies: Sequence[Strategy]) -> tuple[int, ...]:
        """Return the tokens that close a row's thought where one of its strategies does; none if none does.

        Raises:
            SpecError: the model is not known to think, or the message has too many tokens.
        """
        think = think_of(strategies)
        if thought is None:
            if think is not None:
                raise SpecError(
                    "strategy `think`: the model's files name no thinking marks",
                    hint="`--thinking-marks OPEN,CLOSE` names them; a model that does not think needs no `think`",
                )
            return ()
        if think is None and not any(item.thought_watcher() for item in strategies):
            return ()
        message, marks = think.string("message") if think else "", thought.marks
        if (message, marks) not in self._closings:
            if len(self._closings) >= _CACHED:
                self._closings.clear()
            self._closings[message, marks] = self._encoded(message, thought)
        return self._closings[message, marks]

    def _encoded(self, message: str, thought: Thought) -> tuple[int, ...]:
        """Return the tokens of what is put in: a message, what stands before the closing mark, and that."""
        mark = thought.close_ids if thought.close_id is None else (thought.close_id,)
        token_ids = [*self._tokens(message + thought.marks.before + ("" if mark else thought.marks.close)), *mark]
        if len(token_ids) > MOST_INSERTED:
            raise SpecError(
                f"strategy `think`: `message` and mark have {len(token_ids)} tokens: at most {MOST_INSERTED} fit"
            )
        return tuple(token_ids)

    def _thought(self, marks: Marks) -> Thought:
        """Return the marks with their tokens."""
        shown = {
            token_id: name.encode()
            for name, token_id in self._special.items()
            if name in marks.open or name in marks.close
        }
        close_id = self._ids.get(marks.close)
        return Thought(
            marks,
            open_id=self._ids.get(marks.open),
            close_id=close_id,
            close_ids=self._on_a_line(marks.close) if close_id is None else (),
            shown=tuple(shown.items()),
        )

    def _on_a_line(self, mark: str) -> tuple[int, ...]:
        """Return the tokens of a mark that begins a line; none where they merge with the line end before."""
        before, whole = self._tokens("\n"), self._tokens(f"\n{mark}")
        apart = len(whole) > len(before) and whole[: len(before)] == before
        return tuple(whole[len(before) :]) if apart else ()

    def _tokens(self, text: str) -> list[int]:
        """Return the tokens of a text that are no control tokens around it."""
        return list(self._tokenizer([text], add_special_tokens=False, verbose=False)["input_ids"][0])
