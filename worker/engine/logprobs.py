"""What steps tell of their tokens and of the best in their places; of an answer, made text beside the engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from endmark.jobs.logprobs import Scored, encode, encode_token
from endmark.worker.engine.text import Vocabulary


class TokenScores(NamedTuple):
    """A token that was sampled, then the best of its step; log probabilities in the model's own softmax."""

    ids: NDArray[np.int32]  # (1 + K,)
    log_probs: NDArray[np.float32]  # (1 + K,)


@dataclass(frozen=True, slots=True)
class LogProbs:
    """Those of an answer's tokens."""

    vocabulary: Vocabulary
    tokens: Sequence[TokenScores]  # one for each of `Finished.token_ids`

    def stored(self) -> str:
        """Return them as `jobs.logprobs` has them."""
        return encode(map(list, map(self._texts, self.tokens)))

    def _texts(self, scores: TokenScores) -> Iterator[Scored]:
        """Return a token and the best in its place as they are stored."""
        known, names = self.vocabulary, self.vocabulary.names
        for token_id, log_prob in zip(scores.ids.tolist(), scores.log_probs.tolist(), strict=True):
            yield encode_token(known.bytes_of(token_id), names.get(token_id)), log_prob


def told_scores(block: NDArray[np.int32], asked: Mapping[int, int]) -> dict[int, TokenScores]:
    """Return what `best_scores` found of a step's rows, by the row's index.

    Args:
        block: (2, R, 1 + MOST), which may be overwritten by a later step.
        asked: how many of the best each row asks for.
    """
    ids, log_probs = block[0].copy(), block[1].copy().view(np.float32)
    return {row: TokenScores(ids[row, : 1 + count], log_probs[row, : 1 + count]) for row, count in asked.items()}
