"""A grammar over single bytes: what may follow a text, whatever the tokens of a model are."""

from functools import lru_cache
from typing import Any

from endmark.jobs.shapes.grammar import SPACES, grammar_of, library
from endmark.jobs.shapes.shape import Shape, ShapeKind

_END = 256  # the end token, behind the 256 bytes


class _Bytes:
    """The bytes as the tokeniser that llguidance wants to see."""

    eos_token_id = _END
    bos_token_id = None
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")
    special_token_ids = (_END,)
    is_tokenizer_wrapper = True

    def __call__(self, text: str | bytes) -> list[int]:
        """Return a text's bytes."""
        return list(text.encode() if isinstance(text, str) else text)


@lru_cache(maxsize=1)
def _tokenizer() -> Any:  # noqa: ANN401 - llguidance has no types
    """Return the tokeniser, made once."""
    return library("llguidance").LLTokenizer(_Bytes(), eos_token=_END, slices=[])


def byte_matcher(grammar: str) -> Any:  # noqa: ANN401 - llguidance has no types
    """Return a fresh matcher of a grammar, whose tokens are the bytes.

    Raises:
        MissingDependency: the extra `shapes` is not installed.
    """
    return library("llguidance").LLMatcher(_tokenizer(), grammar, log_level=0)


@lru_cache(maxsize=1)
def bounds_white_space() -> bool:
    """Whether llguidance ends white space between the parts of a JSON value by itself, as it does from 1.9 on."""
    longer = b"{" + b" " * (SPACES + 1)
    matcher = byte_matcher(grammar_of(Shape(ShapeKind.JSON_SCHEMA, '{"type": "object"}')))
    return bool(matcher.validate_tokens(list(longer)) < len(longer))


def completes(matcher: Any, data: bytes) -> bool:  # noqa: ANN401 - llguidance's
    """Whether bytes lead to a whole value from where a matcher of bytes stands, which is left as it is."""
    if not data:
        return bool(matcher.is_accepting())
    return bool(matcher.validate_tokens([*data, _END]) == len(data) + 1)


def accepts(grammar: str, data: bytes) -> bool:
    """Whether these bytes are a whole value of a grammar."""
    return completes(byte_matcher(grammar), data)
