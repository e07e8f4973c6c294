"""A step's tokens on the plain path, as they are put together part by part."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from endmark.worker.engine.attention import Span
from endmark.worker.engine.plan import Copied


@dataclass(slots=True)
class StepTokens:
    """A step's tokens as they are put together, part by part."""

    size: int = 0
    inputs: list[Tensor] = field(default_factory=list)  # (N,) int64 each, as the next two
    positions: list[Tensor] = field(default_factory=list)
    write: list[Tensor] = field(default_factory=list)  # where their keys and values go
    spans: list[Span] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)  # tokens whose scores are asked for, in their order
    wanted_spans: list[Span] = field(default_factory=list)  # the same, as they attend
    keep: list[Tensor] = field(default_factory=list)  # which of them rows are sampled behind
    # where in the pool tokens stand that are copied once all others are written, and where they are copied to
    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    # others of them that rows ask about: the row, counted as they are sampled, which one, and what is asked
    others: list[tuple[int, int, Sequence[int]]] = field(default_factory=list)

    def add(self, inputs: Tensor, positions: Tensor, write: Tensor, spans: Sequence[Span]) -> None:
        """Add tokens and the rows that they are of."""
        self.size += len(inputs)
        self.inputs.append(inputs)
        self.positions.append(positions)
        self.write.append(write)
        self.spans += spans

    def copy(self, copied: Copied, page_size: int) -> None:
        """Let the front of a page be copied to another."""
        for page, cells in ((copied.source, self.sources), (copied.page, self.targets)):
            cells += range(page * page_size, page * page_size + copied.tokens)

    @property
    def count(self) -> int:
        """How many tokens are wanted."""
        return len(self.wanted)

    def want(self, span: Span, tokens: int) -> None:
        """Ask for the scores of a span's last tokens: of each row the only one, or so many of its row."""
        end = span.begin + span.rows * span.queries
        own = replace(span, begin=self.count)
        if span.queries > 1:
            own = replace(own, queries=tokens, positions=span.positions[:, -tokens:], fresh=False, masks={})
        self.wanted_spans.append(own)
        self.wanted += range(end - tokens, end)
