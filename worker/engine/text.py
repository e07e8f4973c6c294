"""From token ids to text, a token at a time: the bytes of every token, and the answer as it grows."""

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """The bytes of each token id; special tokens have none, as `decode(…, skip_special_tokens=True)`."""

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        *,
        strip_first_space: bool = False,
        names: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self.token_bytes = tuple(token_bytes)
        self.token_texts = tuple(map(_text, self.token_bytes))  # None where a token holds parts of characters
        self.names = names  # of special tokens
        self.strip_first_space = strip_first_space  # sentencepiece: the space before the first word is no text

    @classmethod
    def of(cls, tokenizer: Any) -> "Vocabulary":  # noqa: ANN401
        """Read the vocabulary of a fast Hugging Face tokeniser.

        Raises:
            ValueError: its decoder is of a kind whose tokens have no fixed bytes.
        """
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        special = {item["id"] for item in backend["added_tokens"] if item["special"]}
        literal = {item["id"] for item in backend["added_tokens"] if not item["special"]}
        decoders = _flatten(backend.get("decoder") or {})
        names = {item.get("type") for item in decoders}
        if "ByteLevel" in names:
            to_bytes: Callable[[str], bytes] = _byte_level
        elif "ByteFallback" in names or "Replace" in names or "Metaspace" in names:
            to_bytes = _sentencepiece
        else:
            raise ValueError(f"a tokeniser with the decoder {sorted(map(str, names))} is not supported")
        strips = any(
            (item.get("type") == "Strip" and item.get("start", 0) > 0)
            or (item.get("type") == "Metaspace" and item.get("prepend_scheme", "always") != "never")
            for item in decoders
        )
        table: list[bytes] = []
        special_names: dict[int, str] = {}
        for token_id in range(len(tokenizer)):
            token = tokenizer.convert_ids_to_tokens(token_id)
            if token is None or token_id in special:
                table.append(b"")
                special_names[token_id] = str(token or "")
            else:
                table.append(token.encode() if token_id in literal else to_bytes(token))
        return cls(table, strip_first_space=strips, names=special_names)

    def bytes_of(self, token_id: int) -> bytes:
        """Return the token's bytes; ids beyond the tokeniser (padding of the embedding) have none."""
        return self.token_bytes[token_id] if token_id < len(self.token_bytes) else b""

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Return the text of a whole answer; bytes of a character that never became whole count as U+FFFD."""
        text = b"".join(map(self.bytes_of, token_ids)).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.strip_first_space else text


def _text(data: bytes) -> str | None:
    """Return the text of a token that holds whole characters; else None."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _flatten(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the single decoders of a tokeniser's decoder."""
    if decoder.get("type") == "Sequence":
        return [single for item in decoder["decoders"] for single in _flatten(item)]
    return [decoder]


def _byte_level(token: str) -> bytes:
    """Undo GPT-2's printable stand-ins for bytes."""
    return b"".join(_STAND_INS.get(char) or char.encode() for char in token)


def _sentencepiece(token: str) -> bytes:
    """Undo sentencepiece's visible space and its byte tokens."""
    match = _BYTE_TOKEN.fullmatch(token)
    return bytes((int(match[1], 16),)) if match else token.replace("▁", " ").encode()


def _stand_ins() -> dict[str, bytes]:
    """Return GPT-2's map from printable characters to bytes: itself where printable, else 256 upwards."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    stand_ins = {chr(byte): bytes((byte,)) for byte in printable}
    stand_ins.update((chr(256 + index), bytes((byte,))) for index, byte in enumerate(others))
    return stand_ins


_STAND_INS = _stand_ins()


class AnswerText:
    """An answer as it grows: its tokens, and the text of all whole characters so far, decoded when asked for."""

    def __init__(self, vocabulary: Vocabulary, token_ids: Sequence[int] = (), *, begun: str = "") -> None:
        self.token_ids = list(token_ids)
        self.end_token_id: int | None = None  # set once it has been sampled
        self.ended_naturally = False
        self._vocabulary = vocabulary
        self._text = begun  # what stands before the first of them
        self._lengths: list[int] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = False  # whether the text ends in the middle of a character
        self._stripped = not vocabulary.strip_first_space

    def append(self, token_id: int) -> None:
        """Add a token to the answer."""
        self.token_ids.append(token_id)

    @property
    def text(self) -> str:
        """The text of all whole characters."""
        if len(self._lengths) < len(self.token_ids):
            self._decode()
        return self._text

    @property
    def lengths(self) -> list[int]:
        """Characters of the text after each token."""
        if len(self._lengths) < len(self.token_ids):
            self._decode()
        return self._lengths

    def _decode(self) -> None:
        """Add the text of the tokens that were not asked for before."""
        known = self._vocabulary.token_texts
        text = self._text
        for token_id in self.token_ids[len(self._lengths) :]:
            piece = known[token_id] if token_id < len(known) else ""
            if piece is None or self._begun:
                piece = self._decoder.decode(self._vocabulary.bytes_of(token_id))
                self._begun = bool(self._decoder.getstate()[0])
            if piece and not self._stripped:
                piece = piece.removeprefix(" ")
                self._stripped = True
            text += piece
            self._lengths.append(len(text))
        self._text = text
