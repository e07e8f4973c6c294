"""Lines and sentences that return with others between, and what is measured of their copies."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

BYTES_A_TOKEN = 4  # of a token's text in ASCII
_BYTES_ELSEWHERE = ((1.3, 2.5), (1.04, 3))  # from so many bytes a character on: other scripts, other letters
_SENTENCES_AROUND = 4  # among which a copy of a sentence is looked for, for each copy
_PROBE = 16  # characters of the end that are looked for first
_SENTENCE = re.compile(r"\S[^\n]*?(?:(?:(?<!\d)[.]|[!?…‽؟۔।])(?=\s|$)|[。！？｡]|(?=\n)|$)")


@dataclass(frozen=True, slots=True)
class Loop:
    """A repetition at the end of a text, in characters from its beginning."""

    start: int  # where the first copy begins
    kept: int  # where the second one does


def length_of(tokens: int, end: str) -> int:
    """Return how many characters so many tokens have, told by the end of their text."""
    if end.isascii():
        return tokens * BYTES_A_TOKEN
    return int(tokens * bytes_a_token(end) * len(end) / len(end.encode(errors="replace")))


def bytes_a_token(text: str) -> float:
    """Return how many bytes a token of such a text has: fewer where its letters are rare to tokenisers."""
    if text.isascii():
        return BYTES_A_TOKEN
    width = len(text.encode(errors="replace")) / len(text)
    return next((size for least, size in _BYTES_ELSEWHERE if width >= least), BYTES_A_TOKEN)


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Yield the sentences and lines of a text, whichever is shorter, with where they begin.

    A full stop behind a figure ends none, as it may be that of a list.
    """
    return ((match.start(), match[0]) for match in _SENTENCE.finditer(text))


def line_again(text: str, begin: int, copies: int, tokens: int) -> Loop | None:
    """Return the loop of a text whose last line has come as often with one other line between, or None.

    Args:
        text: the end of an answer.
        begin: what is added to the places that are returned.
        copies: how often the line must have come.
        tokens: how many tokens' worth of text the copies must span.
    """
    last = text[text.rfind("\n") + 1 :]
    if len(last) * copies < length_of(tokens, last) or text.count(last) < copies:
        return None
    places, at = [], 0
    for line in text.splitlines(keepends=True):
        if line.strip():
            places.append((at, line.strip() == last.strip()))
        at += len(line)
    recent = places[-copies - 1 :]
    same = [begin + at for at, is_last in recent if is_last]
    return Loop(same[0], same[1]) if len(same) >= copies else None


def sentence_again(text: str, begin: int, copies: int, tokens: int) -> Loop | None:
    """Return the loop of a text whose last sentence has come as often, with a few others between, or None.

    It may have stood in others, as their end.

    The arguments are those of `line_again`. A sentence that fills a line of its own is left to that: it may be a
    refrain.
    """
    least = max(1, min(_PROBE, length_of(tokens, text[-_PROBE:]) // copies))
    if text.count(text[-least:]) < copies:  # as in most
        return None
    tail = text[text.rfind("\n") + 1 :]
    *_, last = ("", *(sentence for _, sentence in sentences(tail)))
    if len(last) * copies < length_of(tokens, last) or len(last) == len(tail) or text.count(last) < copies:
        return None
    recent = list(sentences(text))[-_SENTENCES_AROUND * copies :]
    same = [begin + at + len(sentence) - len(last) for at, sentence in recent if sentence.endswith(last)]
    return Loop(same[0], same[1]) if len(same) >= copies else None
