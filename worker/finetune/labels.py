"""From a chat to token ids and labels: every whole answer ends with EOS, and its EOS is in the labels.

Labels are made here, of text positions, and never derived from token ids: where pad and EOS are the same token,
masking by id would take EOS out of them.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from endmark.jobs.errors import ModelError, TokenUnknown
from endmark.jobs.prompts import Turn
from endmark.jobs.thinking import find_marks
from endmark.worker.finetune.thoughts import shared, thought_of, with_thought

IGNORED = -100  # the label of what is not to be learned
# For models without a chat template: as Llama 2 was trained.
LLAMA_2_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] | trim + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for turn in turns %}{% if turn['role'] == 'user' %}"
    "{{ bos_token }}{{ '[INST] ' + (system if loop.index0 == 0 else '') + turn['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + turn['content'] | trim + ' ' }}{{ eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True, slots=True)
class Labelled:
    """One example as the model is to see it; `labels` are the token ids where they are to be learned."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]
    answers: int  # of its whole answers, each of which ends with EOS
    cut: bool  # by the length limit

    @property
    def learns(self) -> bool:
        """Whether anything of it is to be learned."""
        return any(label != IGNORED for label in self.labels)


class Labeller:
    """Makes the examples of one tokeniser.

    Args:
        tokenizer: a fast one, with a chat template.
        eos_ids: every end token of the model.
        max_length: tokens of an example, beyond which it is cut.
        embeddings: tokens that the model can take in. None: all that the tokeniser knows.
        answer_alone: whether thoughts are shown and not learned.

    Raises:
        ModelError: the tokeniser has no end token.
    """

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401
        eos_ids: Collection[int],
        max_length: int,
        *,
        embeddings: int | None = None,
        answer_alone: bool = False,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError("the tokeniser names no end token", hint="set `eos_token` in tokenizer_config.json")
        self._tokenizer = tokenizer
        self._eos_ids = frozenset((*eos_ids, tokenizer.eos_token_id))
        self._max_length = max_length
        self._embeddings = embeddings
        self._answer_alone = answer_alone
        added = (token.content for token in tokenizer.added_tokens_decoder.values())
        self._marks = find_marks(tuple(added), [str(tokenizer.chat_template or "")])

    def label(self, turns: Sequence[Turn]) -> Labelled:
        """Return a chat as token ids and labels, cut to the length limit; a cut answer has no EOS.

        Raises:
            TokenUnknown: it holds a token that the model has no embedding for.
        """
        clean = [self._without_end(turn) for turn in turns]
        text, spans = self._text(clean)
        token_ids: list[int] = []
        labels: list[int] = []
        ends: list[int] = []  # positions of the answers' EOS
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for token_id, (begin, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if spans and begin >= spans[0][1]:  # the first token behind an answer
                spans.pop(0)
                ends.append(len(token_ids))
                own = token_id in self._eos_ids
                token_ids.append(token_id if own else self._tokenizer.eos_token_id)
                labels.append(token_ids[-1])
                if own:
                    continue
            learned = bool(spans) and begin >= spans[0][0] and end > begin
            token_ids.append(token_id)
            labels.append(token_id if learned else IGNORED)
        if spans:  # nothing stands behind the last answer
            ends.append(len(token_ids))
            token_ids.append(self._tokenizer.eos_token_id)
            labels.append(token_ids[-1])
        highest = max(token_ids, default=0)
        if self._embeddings is not None and highest >= self._embeddings:
            name = self._tokenizer.convert_ids_to_tokens(highest) or ""
            raise TokenUnknown(highest, name, self._embeddings, where="the example")
        length = self._max_length
        return Labelled(
            tuple(token_ids[:length]),
            tuple(labels[:length]),
            answers=sum(position < length for position in ends),
            cut=len(token_ids) > length,
        )

    def _text(self, turns: Sequence[Turn]) -> tuple[str, list[tuple[int, int]]]:
        """Return a chat's text, and where in it stands what is to be learned."""
        marks = thought_of(turns, self._marks)
        if marks is None:
            text = self._render(turns, generate=False)
            return text, self._spans(turns, text)
        text, begin, answer, end = with_thought(turns, marks, lambda part, more: self._render(part, generate=more))
        return text, [
            *self._spans(turns[:-1], text),
            (answer if self._answer_alone else begin, self._past_space(text, end)),
        ]

    def _spans(self, turns: Sequence[Turn], text: str) -> list[tuple[int, int]]:
        """Return where in the text the answers stand, as they would be generated, to the end of their content.

        An answer that the template writes differently once others follow is left out: it is never so generated.
        """
        found = []
        for index, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            before = self._render(turns[:index], generate=True)
            upto = self._render(turns[: index + 1], generate=False)
            begin = shared(before, upto)
            content = turn["content"].strip()
            at = upto.find(content, begin)
            end = at + len(content)
            if at >= 0 and text[:end] == upto[:end]:
                found.append((begin, self._past_space(text, end)))
        return found

    def _past_space(self, text: str, end: int) -> int:
        """Return where the template's own end token begins, if white space alone stands before it; else `end`."""
        behind = text[end:].lstrip()
        names = self._tokenizer.convert_ids_to_tokens(sorted(self._eos_ids))
        if any(name is not None and behind.startswith(name) for name in names):
            return len(text) - len(behind)
        return end

    def _render(self, turns: Sequence[Turn], *, generate: bool) -> str:
        """Return the chat as the template writes it."""
        text = self._tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=generate)
        return str(text)

    def _without_end(self, turn: Turn) -> Turn:
        """Return an answer without an end token that the dataset has written out: the template adds its own."""
        content = turn["content"]
        if turn["role"] != "assistant":
            return turn
        for name in self._tokenizer.convert_ids_to_tokens(sorted(self._eos_ids)):
            content = content.rstrip().removesuffix(name) if name else content
        return Turn(role="assistant", content=content)


@dataclass(frozen=True, slots=True)
class Block:
    """Examples that share one sequence; `lengths` are theirs, in order."""

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]
    lengths: tuple[int, ...]


def pack(examples: Sequence[Labelled], max_length: int) -> list[Block]:
    """Put whole examples together into sequences of at most `max_length` tokens, best fit first."""
    bins: list[list[Labelled]] = []
    rooms: list[tuple[int, int]] = []  # the tokens that each bin has left, and the bin; sorted
    for example in sorted(examples, key=lambda item: -len(item.token_ids)):
        size = len(example.token_ids)
        at = bisect_left(rooms, (size, 0))
        if at < len(rooms):
            left, place = rooms.pop(at)
            bins[place].append(example)
        else:
            left, place = max_length, len(bins)
            bins.append([example])
        insort(rooms, (left - size, place))
    return [
        Block(
            tuple(token_id for item in items for token_id in item.token_ids),
            tuple(label for item in items for label in item.labels),
            tuple(len(item.token_ids) for item in items),
        )
        for items in bins
    ]
