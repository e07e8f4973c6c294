"""What a step that was started on a card brings back, drawn at once or once its late masks are there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from endmark.worker.engine.cuda.decode import DecodeStep
from endmark.worker.engine.cuda.staging import Download
from endmark.worker.engine.layout import RESULT
from endmark.worker.engine.logprobs import told_scores
from endmark.worker.engine.plan import StepResult
from endmark.worker.engine.scores import Questions

# What was drawn, (RESULT.width, R) int32; and by row how many best tokens it is told, beside its `best_scores`.
Drawn = tuple[Download, Sequence[tuple[Mapping[int, int], Download]]]


def drawn_step(step: DecodeStep, asked: Mapping[int, int]) -> Drawn:
    """Draw the tokens of a captured step; `asked`: how many best tokens its rows are told."""
    result, told = step.drawn()
    return result, [(asked, told)] if told is not None else []


@dataclass(slots=True)
class Launched:
    """A step that was started."""

    start_draw: Callable[[], Drawn] | None  # which holds the scores; None once it has been drawn
    scores: Sequence["Answered"] = ()  # of a row that stands there twice the last is meant
    drawn: Download | None = None
    told: Sequence[tuple[Mapping[int, int], Download]] = ()

    def draw(self) -> None:
        """Start what brings the tokens back."""
        assert self.start_draw is not None, "a step is drawn once"
        self.drawn, self.told = self.start_draw()
        self.start_draw = None

    def result(self, rows: int) -> StepResult:
        """Wait for what it sampled, and return it."""
        assert self.drawn is not None, "its tokens have been drawn"
        got = self.drawn.wait()[:, :rows]
        asked: dict[int, tuple[float, ...]] = {}
        before: dict[int, tuple[tuple[float, ...], ...]] = {}
        for answered in self.scores:
            own, others = answered.read()
            asked |= own
            before |= others
        return StepResult(
            token_ids=got[RESULT["token"]].tolist(),
            eos_probs=np.ascontiguousarray(got[RESULT["eos_prob"]]).view(np.float32).tolist(),
            eos_ranks=got[RESULT["rank"]].tolist(),
            flags=got[RESULT["flags"]].tolist(),
            asked=asked,
            asked_before=before,
            told={
                row: scores
                for asked, block in self.told
                for row, scores in told_scores(block.wait(), asked).items()
            },
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """What rows of one pass have asked about."""

    done: int  # rows sampled in passes before
    sampled: int
    questions: Questions
    found: Download  # the bits of what `asked_scores` returns

    def read(self) -> tuple[dict[int, tuple[float, ...]], dict[int, tuple[tuple[float, ...], ...]]]:
        """Return it as `StepResult` has it, once it is there."""
        told = self.found.wait().view(np.float32).tolist()
        own, before = self.questions.answered(told, self.sampled)
        shift = self.done
        return {shift + row: it for row, it in own.items()}, {shift + row: it for row, it in before.items()}
