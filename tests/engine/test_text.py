"""From token ids to text: what bytes the tokens of each kind of tokeniser have, and text as it grows."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from endmark.worker.engine.text import AnswerText, Vocabulary

pytestmark = pytest.mark.engine


def tokenizer_of(tokens, decoder, special=()):
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, tokens[0]))
    backend.decoder = decoder
    backend.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_each_byte_has_gpt2_s_stand_in():
    known = bytes_to_unicode()
    made = tokenizer_of([*known.values(), "Ġof", "é¤"], decoders.ByteLevel(), ["<|end|>"])
    vocabulary = Vocabulary.of(made)
    assert list(vocabulary.token_bytes[:256]) == [bytes([byte]) for byte in known]
    assert vocabulary.token_bytes[256:] == (b" of", b"\xe9\xa4", b"")
    assert (vocabulary.names, vocabulary.strip_first_space) == ({258: "<|end|>"}, False)
    assert vocabulary.bytes_of(258) == vocabulary.bytes_of(259) == b""


@pytest.mark.parametrize(
    ("decoder", "strips"),
    [
        (decoders.Metaspace(), True),
        (decoders.Metaspace(prepend_scheme="never"), False),
        (decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]), False),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]), True),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 0, 1)]), False),
    ],
)
def test_sentencepiece_s_spaces_and_bytes_are_undone(decoder, strips):
    tokens = ["▁one", "two", "<0x0A>", "<0xe9>", "<0xE9>x", "▁▁"]
    vocabulary = Vocabulary.of(tokenizer_of(tokens, decoder))
    assert vocabulary.token_bytes == (b" one", b"two", b"\n", b"\xe9", b"<0xE9>x", b"  ")
    assert vocabulary.strip_first_space is strips
    assert vocabulary.text_of([0, 0]) == ("one one" if strips else " one one")


def test_another_kind_of_tokeniser_is_refused_by_its_decoder():
    with pytest.raises(ValueError, match="WordPiece"):
        Vocabulary.of(tokenizer_of(["a"], decoders.WordPiece()))


PIECES = [b"a", b" b", b"", "é".encode(), "é".encode()[:1], "é".encode()[1:], "😀".encode()[:2], "😀".encode()[2:]]
PIECES += [b"\xff", "ß x".encode(), b" "]


@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_text_that_grows_is_the_text_at_once(seed, strips):
    """However often it is asked for meanwhile; its lengths are those of the text that each token has completed."""
    rng = random.Random(seed)
    vocabulary = Vocabulary(PIECES, strip_first_space=strips)
    begun = rng.choice(["", "x"])
    tokens = [rng.randrange(len(PIECES) + 1) for _ in range(rng.randrange(1, 12))]
    given = rng.randrange(len(tokens))
    text = AnswerText(vocabulary, tokens[:given], begun=begun)
    for count, token in enumerate(tokens[given:], given + 1):
        text.append(token)
        if rng.random() < 0.5:
            data = b"".join(map(vocabulary.bytes_of, tokens[:count]))
            assert begun + whole_of(data, strips) == text.text
    data = b"".join(map(vocabulary.bytes_of, tokens))
    assert text.token_ids == tokens
    lengths = [
        len(whole_of(b"".join(map(vocabulary.bytes_of, tokens[:at])), strips)) for at in range(1, len(tokens) + 1)
    ]
    assert text.lengths == [len(begun) + length for length in lengths]
    assert vocabulary.text_of(tokens) == data.decode("utf-8", "replace").removeprefix(" " if strips else "")
    assert (text.end_token_id, text.ended_naturally) == (None, False)


def whole_of(data, strips):
    """The whole characters of bytes, those left out that may become one with the next byte."""
    for cut in range(4):
        kept = data[: len(data) - cut]
        text = kept.decode("utf-8", "replace")
        left = data[len(kept) :]
        if not left or is_begun(left):
            longest = next((size for size in (3, 2, 1) if is_begun(data[-size:]) and len(data) >= size), 0)
            text = data[: len(data) - longest].decode("utf-8", "replace")
            return text.removeprefix(" ") if strips else text
    raise AssertionError


def is_begun(data):
    """Whether bytes are the begin of one character, and no more."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start == 0 and error.reason == "unexpected end of data"
    return False
