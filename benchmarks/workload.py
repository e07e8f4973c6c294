"""The workload of the throughput benchmarks: rows with log-normal prompt and answer lengths, EOS ignored."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt, and how many tokens its answer has."""

    prompt_token_ids: tuple[int, ...]
    max_tokens: int


def mixed_rows(count: int, seed: int, vocabulary: int, scale: float = 1.0) -> list[Row]:
    """Return rows of mixed lengths.

    Prompts have 8 to 512 tokens, 128 on average, and answers 4 to 500, 224 on average, all times `scale`. The
    prompts' tokens are random: 5 and up, as the ids below are those of special tokens in many vocabularies.
    """
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt = int(scale * min(512, max(8, int(rng.lognormvariate(4.6, 0.7)))))
        answer = int(scale * min(500, max(4, int(rng.lognormvariate(5.2, 0.7)))))
        rows.append(Row(tuple(rng.randrange(5, vocabulary) for _ in range(prompt)), answer))
    return rows
