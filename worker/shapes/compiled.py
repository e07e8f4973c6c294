"""Compiled shapes: for one model's tokens, each compiled once, and the masks of answers made from them."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endmark.jobs.shapes import Shape, ShapeKind
from endmark.jobs.shapes.grammar import behind, grammar_of, library
from endmark.jobs.shapes.matching import bounds_white_space, byte_matcher
from endmark.worker.engine.choices import Choices
from endmark.worker.engine.healing import Healed, Healer
from endmark.worker.engine.masks import TokenMask
from endmark.worker.engine.text import Vocabulary
from endmark.worker.shapes.closing import Closer, Grammar
from endmark.worker.shapes.making import MaskMaker
from endmark.worker.shapes.mask import Compiled, ShapeMask
from endmark.worker.shapes.room import Memory
from endmark.worker.shapes.white_space import WhiteSpace

_KEPT = 256  # compiled shapes
_MARKS = frozenset(b'{}[],:"\\')  # of JSON, by which searches tell how a text stands


class Shapes:
    """Makes the masks of one model's rows. Safe to use from every thread.

    Args:
        vocabulary: of the model's tokeniser.
        eos_ids: all end tokens.
        closes: whether answers are closed inside their budget; without it they are cut, for comparison.
        memory: where masks are made, see `MaskMaker`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        eos_ids: Collection[int],
        *,
        closes: bool = True,
        memory: Memory | None = None,
    ) -> None:
        self._closes = closes
        self._choices: dict[Shape, Choices | None] = {}
        self._vocabulary = vocabulary
        self._eos_ids = sorted(eos_ids)
        self._compiled: OrderedDict[tuple[Shape, str], Compiled] = OrderedDict()
        self._lock = Lock()
        self._maker = MaskMaker(memory)

    def maker(self, shape: Shape, begun: str = "") -> Callable[[Sequence[int], int], TokenMask]:
        """Return what makes the mask of an answer from its first tokens and the budget that is left.

        Args:
            shape: of the answer.
            begun: a text that stands before it, of a prompt that was healed.

        Raises:
            MissingDependency: the extra `shapes` is not installed.
        """
        return partial(ShapeMask, self._of(shape, begun), self._maker)

    def heal(self, token_ids: Sequence[int]) -> Healed | None:
        """Return a prompt without its last tokens, where an answer may go on inside them; see `Healer`."""
        return self._healer.cut(token_ids)

    def free(self, begun: bytes) -> Callable[[Sequence[int], int], TokenMask]:
        """Return what makes the mask of an answer that begins with bytes, and has no shape."""
        return self._healer.maker(begun)

    def choices(self, shape: Shape, encode: Callable[[Sequence[str]], Sequence[Sequence[int]]]) -> Choices | None:
        """Return the labels of a shape as they are scored; None where it has none, or one cannot be written.

        A label is written as the tokeniser writes it where those tokens hold its text alone, else in the fewest.

        Args:
            encode: returns the tokens of texts, without any that a tokeniser adds to them.
        """
        if shape.kind is not ShapeKind.CHOICES:
            return None
        with self._lock:
            if shape not in self._choices:
                while len(self._choices) >= _KEPT:
                    self._choices.pop(next(iter(self._choices)))
                self._choices[shape] = self._labels(shape.choices, encode(shape.choices))
            return self._choices[shape]

    def _labels(self, labels: Sequence[str], encoded: Sequence[Sequence[int]]) -> Choices | None:
        """Return labels as they are scored; None where one cannot be written."""
        written: list[tuple[int, ...]] = []
        for label, ids in zip(labels, encoded, strict=True):
            data = [self._vocabulary.bytes_of(token_id) for token_id in ids]
            alone = all(data) and b"".join(data) == label.encode()
            found = tuple(ids) if alone else self._closer.tokens(label.encode())
            if found is None:
                return None
            written.append(found)
        return Choices(tuple(labels), tuple(written), tuple(self._eos_ids))

    def fewest_tokens(self, shape: Shape) -> int | None:
        """Return how many tokens the shortest value takes, its end token included; None if none was found."""
        way = self._of(shape).way
        return None if way is None else len(way.token_ids) + 1

    def _of(self, shape: Shape, begun: str = "") -> Compiled:
        """Return a shape behind a text, compiled now or before."""
        with self._lock:
            compiled = self._compiled.pop((shape, begun), None) or self._compile(shape, begun)
            self._compiled[shape, begun] = compiled
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return compiled

    def _compile(self, shape: Shape, begun: str) -> Compiled:
        """Return a shape behind a text as a matcher of the model's tokens."""
        grammar = behind(begun, grammar_of(shape)) if begun else grammar_of(shape)
        matcher = library("llguidance").LLMatcher(self._tokenizer, grammar, log_level=0)
        is_json = shape.kind is ShapeKind.JSON_SCHEMA and _MARKS.isdisjoint(begun.encode())
        single, known = byte_matcher(grammar), Grammar(is_json)
        if shape.kind is ShapeKind.CHOICES:
            way = self._closer.fewest((begun + label).encode() for label in shape.choices)
        else:
            way = self._closer.shortest(single, known)
        way = way if self._closes else None
        white = self._white_space if is_json and not bounds_white_space() else None
        return Compiled(matcher, single, self._end_bits, self._vocabulary, self._closer, way, known, white)

    @cached_property
    def _white_space(self) -> WhiteSpace:
        """What ends white space in JSON."""
        return WhiteSpace(self._vocabulary, len(self._end_bits))

    @cached_property
    def _healer(self) -> Healer:
        """What cuts prompts."""
        return Healer(self._vocabulary, frozenset(self._eos_ids))

    @cached_property
    def _closer(self) -> Closer:
        """What finds ways to close, in the model's tokens."""
        return Closer(self._vocabulary, self._eos_ids)

    @cached_property
    def _tokenizer(self) -> Any:  # noqa: ANN401 - llguidance has no types
        """The model's tokens, as llguidance reads them."""
        return library("llguidance").LLTokenizer(_Tokens(self._vocabulary, self._eos_ids), eos_token=self._eos_ids)

    @cached_property
    def _end_bits(self) -> NDArray[np.int32]:
        """The bits of all end tokens, as a mask has them: (ceil(V / 32),)."""
        size = max(len(self._vocabulary.token_bytes), self._eos_ids[-1] + 1)
        bits = np.zeros(-(-size // 32) * 32, np.uint8)
        bits[self._eos_ids] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)


class _Tokens:
    """A model's tokens as llguidance wants to see them: their bytes, and which are special and so never match."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, eos_ids: Sequence[int]) -> None:
        size = max(len(vocabulary.token_bytes), eos_ids[-1] + 1)
        special = {token for token in range(size) if not vocabulary.bytes_of(token)} | set(eos_ids)
        self.eos_token_id = eos_ids[0]
        self.special_token_ids = sorted(special)
        self.tokens = [
            f"<|{token}|>".encode() if token in special else vocabulary.bytes_of(token) for token in range(size)
        ]
        self._single = {data: token for token, data in enumerate(vocabulary.token_bytes) if len(data) == 1}

    def __call__(self, text: str | bytes) -> list[int]:
        """Return a text as tokens of one byte each."""
        data = text.encode() if isinstance(text, str) else text
        return [self._single[data[at : at + 1]] for at in range(len(data)) if data[at : at + 1] in self._single]
