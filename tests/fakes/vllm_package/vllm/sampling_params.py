"""Sampling parameters, as far as the stand-in knows them."""

from dataclasses import dataclass, field
from enum import Enum


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int | None = 16
    ignore_eos: bool = False
    stop_token_ids: list[int] = field(default_factory=list)
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    extra_args: dict | None = None

    def __post_init__(self):
        assert self.temperature == 0.0, "the stand-in is greedy"
        assert self.output_kind is RequestOutputKind.FINAL_ONLY
        assert self.ignore_eos
        assert not self.detokenize
