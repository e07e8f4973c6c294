"""What each form of weights and cache changes, against 16 bits: `python benchmarks/accuracy.py --model MODEL`.

Over pages of these docs, every token of which is scored behind the true ones before it: perplexity, the
Kullback-Leibler divergence from 16 bits a token, and how often the most probable token is the same. Over greedy
answers to `examples/everyday.csv`: tokens equal until the first that differs, answers equal throughout, and how
answers end. On a card all of it runs through the engine. On a CPU texts are scored alone, and fp8 numbers are
multiplied in fp32.
"""

import argparse
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from endings import EVERYDAY, Outcome, judge
from prompts import encode, read_prompts
from torch import Tensor

from endmark.jobs.sampling import Sampling
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.spelling import as_percent
from endmark.jobs.vocabulary import StoredRow
from endmark.worker.models.loaded import LoadedEngine, OwnEngine
from endmark.worker.models.loader import load_engine, load_model, load_tokenizer, model_path
from endmark.worker.models.weights import BF16, apply_weights_mode
from endmark.worker.service.rows import RowRun

_ROOT = Path(__file__).resolve().parents[1]
_WINDOW = 1024  # tokens of a text that are scored together
_ROWS = 64  # at once

Scorer = Callable[[Sequence[int]], Tensor]  # token ids to logits, (tokens, V)


@dataclass(frozen=True, slots=True)
class System:
    """A form in which the model runs."""

    name: str
    weights: str
    kv_cache: str = "auto"
    four_bits: bool = True

    def runs_on(self, device: str) -> bool:
        """Whether it can be tried there: the cache in fp8 is the kernels', and bf16 products are a CPU's."""
        return self.kv_cache == "auto" if device == "cpu" else self.weights != BF16


SYSTEMS = (
    System("16 bits", "expanded", four_bits=False),  # the one that all others are compared with
    System("16 bits again", "expanded", four_bits=False),
    System("16 bits, fp8 cache", "expanded", "fp8", four_bits=False),
    System("packed", "packed"),
    System("expanded", "expanded"),
    System("expanded, fp8 cache", "expanded", "fp8"),
    System("fp8", "fp8"),
    System("fp8, fp8 cache", "fp8", "fp8"),
    System("fp8-original", "fp8-original"),
    System("fp8-original, fp8 cache", "fp8-original", "fp8"),
    System("bf16", BF16),
)


@dataclass(slots=True)
class Text:
    """How well a text is predicted, summed up over its tokens."""

    tokens: int = 0
    loss: float = 0.0  # nats
    divergence: float = 0.0  # nats
    same: int = 0  # tokens at which the most probable one is that of 16 bits

    def add(self, logits: Tensor, wanted: Tensor, ids: Sequence[int]) -> None:
        """Add a window.

        Args:
            logits: (T, V) of the form.
            wanted: (T, V) log probabilities in 16 bits.
            ids: the T tokens.
        """
        got = logits[:-1].float().log_softmax(-1)
        following = torch.tensor(ids[1:], device=got.device)
        self.tokens += len(following)
        self.loss -= got.gather(1, following.unsqueeze(1)).sum().item()
        self.divergence += (wanted[:-1].exp() * (wanted[:-1] - got)).sum().item()
        self.same += int((got.argmax(-1) == wanted[:-1].argmax(-1)).sum())

    def cells(self) -> list[str]:
        """Return its figures."""
        perplexity = math.exp(self.loss / self.tokens)
        return [
            f"{perplexity:.3f}",
            f"{self.divergence / self.tokens:.4f}",
            as_percent(self.same / self.tokens, 1),
        ]


@dataclass(frozen=True, slots=True)
class Answers:
    """Greedy answers: each one's tokens, the end token too, and how they ended."""

    tokens: list[tuple[int, ...]]
    ends: Outcome

    def cells(self, usual: "Answers") -> list[str]:
        """Return their figures beside the answers of 16 bits."""
        pairs = list(zip(usual.tokens, self.tokens, strict=True))
        same = sum(_equal_tokens(*pair) for pair in pairs)
        steps = sum(min(_equal_tokens(*pair) + 1, len(pair[0])) for pair in pairs)
        equal = sum(one == other for one, other in pairs)
        ends = (self.ends.natural, self.ends.truncated, self.ends.loop, self.ends.complete)
        return [
            as_percent(same / steps, 2),
            f"{equal} of {len(pairs)}",
            *(as_percent(share, 1) for share in ends),
        ]


def _equal_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens are equal before the first that differs."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def windows(tokenizer: Any, count: int) -> list[list[int]]:  # noqa: ANN401
    """Return the first windows of the docs' text."""
    pages = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
    made = {"map.md", "commands.md"}  # tables and help, which are no prose
    text = "\n\n".join(page.read_text(encoding="utf-8") for page in pages if page.name not in made)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [ids[at : at + _WINDOW] for at in range(0, len(ids) - _WINDOW, _WINDOW)][:count]


def card_scorer(loaded: OwnEngine) -> Scorer:
    """Score with the engine's kernels: one row's prefill, its keys read from the cache."""
    from endmark.worker.engine.cuda.runner import CudaRunner
    from endmark.worker.engine.cuda.scoring import score_text

    runner = loaded.runner
    assert isinstance(runner, CudaRunner), "it has a reason in the log why it takes the plain path"
    return lambda ids: score_text(runner, ids, torch.device("cuda"))


def cpu_scorer(model: str, system: System) -> Scorer:
    """Score with the network itself, in fp32."""
    four_bits = system.four_bits and system.weights != "fp8-original"
    network = load_model(model_path(model), device="cpu", four_bits=four_bits)
    apply_weights_mode(network, system.weights, 0)
    network.set_attn_implementation("sdpa")

    @torch.inference_mode()
    def score(ids: Sequence[int]) -> Tensor:
        logits: Tensor = network(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        return logits

    return score


def answer(loaded: LoadedEngine, prompts: Sequence[str], budget: int) -> Answers:
    """Return greedy answers to the prompts."""
    spec = GenerationSpec(max_new_tokens=budget, sampling=Sampling(temperature=0.0))
    rows = [RowRun(StoredRow(key, (), 0, 0), item) for key, item in enumerate(encode(loaded, prompts, spec))]
    for key, row in enumerate(rows):
        loaded.engine.add(row.first_request(key))
    while loaded.engine.has_work:
        for finished in loaded.engine.step():
            rows[finished.key].conclude(finished)
    tokens = []
    for row in rows:
        assert row.last is not None
        end = row.last.end_token_id
        tokens.append((*row.last.token_ids, *(() if end is None else (end,))))
    return Answers(tokens, judge([row.outcome().attempts[-1] for row in rows]))


def measure(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield a line of the table for each form."""
    texts = windows(load_tokenizer(model_path(options.model)), options.windows)
    prompts = read_prompts(EVERYDAY)[: options.prompts]
    wanted: list[Tensor] = []
    usual: Answers | None = None
    for system in SYSTEMS:
        asked = not wanted or options.forms is None or system.name in options.forms.split(";")
        if not asked or not system.runs_on(options.device):
            continue
        if options.device == "cpu":
            score, cells = cpu_scorer(options.model, system), []
        else:
            loaded = load_engine(
                options.model,
                device=options.device,
                weights=system.weights,
                max_rows=_ROWS,
                kv_cache=system.kv_cache,
                four_bits=system.four_bits,
            )
            score = card_scorer(loaded)
        text = Text()
        for index, ids in enumerate(texts):
            logits = score(ids)
            if len(wanted) == index:  # 16 bits come first
                wanted.append(logits.float().log_softmax(-1))
            text.add(logits, wanted[index], ids)
        if options.device != "cpu":
            answers = answer(loaded, prompts, options.budget)
            usual = usual or answers
            cells = answers.cells(usual)
            del loaded, answers
        yield [system.name, *text.cells(), *cells]
        del score
        gc.collect()
        torch.cuda.empty_cache()


def main() -> None:
    """Measure and print, a line of the table as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--forms", help="of weights and cache, joined by `;`; 16 bits come before them in any case"
    )
    parser.add_argument("--windows", type=int, default=24, help=f"texts of {_WINDOW} tokens")
    parser.add_argument("--prompts", type=int, default=272)
    parser.add_argument("--budget", type=int, default=256, help="new tokens of an answer")
    options = parser.parse_args()
    heads = ["weights and cache", "perplexity", "KL, nats a token", "same best token"]
    if options.device != "cpu":
        heads += ["equal tokens", "equal answers", "natural EOS", "truncated", "ends in a loop", "complete"]
    print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}", flush=True)
    for line in measure(options):
        print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    main()
