"""Rows through vLLM against whole logits of transformers, step by step: `python benchmarks/vllm_oracle.py MODEL`.

Rows have six kinds of strategies and four samplings. Each step of an answer is drawn anew by the plain arithmetic
from transformers' logits behind the same tokens: it gives the token that came; or it would with the two scores in
question moved towards each other by no more than `--tie`, which 16-bit numbers leave open; or it does not. Each
end is told anew as natural, boosted or forced. Both engines compute in bf16 on a card, in fp32 elsewhere; with
`--weights nf4` both have the weights in NF4 as bitsandbytes makes it, which wants a card.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from prompts import EXAMPLES, read_prompts
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import build_strategies, score_numbers
from endmark.worker.engine.adjusting import Written, adjust
from endmark.worker.engine.followed import source_of
from endmark.worker.engine.plan import PrefillRow, StepResult
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.step_end import StepEnd
from endmark.worker.models.building import sentence_table
from endmark.worker.vllm.loading import load_vllm_engine

_STRATEGIES = ([], ["deadline"], ["soft-landing"], ["exp-decay"], ["eos-reward"], ["stop:text=the"])
_SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.8, top_p=0.9, seed=3),
    Sampling(repetition_penalty=1.2),
    Sampling(temperature=1.0, top_k=40, min_p=0.02, presence_penalty=0.4, seed=5),
)
_BUDGETS = (24, 48, 96)


@dataclass(slots=True)
class Count:
    """What was found."""

    steps: Counter[str] = field(default_factory=Counter)  # equal, near ties, others
    ends: Counter[str] = field(default_factory=Counter)  # by their sources
    other_ends: int = 0  # whose source is another with whole logits
    widest: float = 0.0  # the largest difference of an EOS probability
    others: list[tuple[object, ...]] = field(default_factory=list)  # row, step, what came, what should have


class Oracle:
    """Draws from whole logits.

    Args:
        model: transformers' own.
        eos_ids: all end tokens.
        table: (STATES, V) uint8.
        tie: by which two scores may be moved towards each other.
    """

    def __init__(self, model: Any, eos_ids: list[int], table: Tensor, tie: float) -> None:  # noqa: ANN401
        self._model, self._eos_ids, self._table, self._tie = model, torch.tensor(eos_ids), table, tie

    def check(self, request: Request, finished: Finished, count: Count) -> None:
        """Draw an answer's tokens anew."""
        tokens = [*finished.token_ids]
        if finished.end_token_id is not None:
            tokens.append(finished.end_token_id)
        prompt = list(request.prompt_token_ids)
        row = PrefillRow(
            slot=0,
            token_ids=[],
            cached=0,
            pages=(0,),
            step=0,
            position=0,
            sampling=request.sampling,
            numbers=score_numbers(request.strategies, request.max_new_tokens),
            stream=request.stream,
            prompt=len(prompt),
        )
        end = StepEnd(self._eos_ids, 1, self._table, torch.device("cpu"))
        end.admit(row)
        drawn = None
        for step, (token, logits) in enumerate(zip(tokens, self._logits(prompt, tokens), strict=True)):
            draw = partial(self._draw, end, row, prompt + tokens[:step], step)
            before = end.records.clone()
            drawn = draw(logits)
            kind, other = "equal", drawn.token_ids[0]
            if other != token:
                end.records.copy_(before)
                kind = "near ties" if self._is_near(draw, logits, token, other) else "others"
            if kind == "others":
                count.others.append((request.key, step, token, other))
            count.steps[kind] += 1
            if finished.trace.probs is not None:
                count.widest = max(count.widest, abs(finished.trace.probs[step] - drawn.eos_probs[0]))
        if drawn is not None and finished.end_token_id is not None and drawn.token_ids[0] == tokens[-1]:
            source = finished.verdict.eos_source
            count.ends[str(source)] += 1
            count.other_ends += source_of(drawn.flags[0]) is not source

    def _logits(self, prompt: list[int], tokens: list[int]) -> Iterator[Tensor]:
        """Yield (1, V) fp32 on the CPU before each of the tokens."""
        if not tokens:
            return
        ids = torch.tensor([[*prompt, *tokens[:-1]]], device=self._model.device)
        with torch.inference_mode():
            whole = self._model(input_ids=ids).logits[0, len(prompt) - 1 :].float().cpu()
        yield from whole.unsqueeze(1)

    def _draw(self, end: StepEnd, row: PrefillRow, held: list[int], step: int, raw: Tensor) -> StepResult:
        """Draw one token."""
        scores = raw.clone()
        if row.sampling.adjusts:
            written = Written(torch.tensor([held]), torch.tensor([[len(held)]]), torch.tensor([[row.prompt]]))
            adjust(scores, [row], written, self._eos_ids)
        return end.draw(raw, scores, torch.tensor([0]), torch.tensor([step]), torch.tensor([step]))

    def _is_near(self, draw: Callable[[Tensor], StepResult], logits: Tensor, token: int, other: int) -> bool:
        """Whether the token that came is drawn instead of the other, once their scores are moved."""
        moved = logits.clone()
        moved[0, token] += self._tie
        moved[0, other] -= self._tie
        return draw(moved).token_ids[0] == token


def load_transformers(folder: str, device: str, weights: str) -> Any:  # noqa: ANN401
    """Return transformers' own model, with the weights that vLLM is to have."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    given: dict[str, Any] = {"quantization_config": quantised} if weights == "nf4" else {}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device, **given).eval()


def requests_of(tokenizer: Any, count: int) -> list[Request]:  # noqa: ANN401
    """Return rows of all kinds."""
    prompts = read_prompts(EXAMPLES)
    rows = []
    for key in range(count):
        said = [{"role": "user", "content": prompts[key % len(prompts)]}]
        ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        rows.append(
            Request(
                key=key,
                prompt_token_ids=ids,
                max_new_tokens=_BUDGETS[key % 3],
                stream=key,
                sampling=_SAMPLINGS[key // 6 % 4],
                strategies=build_strategies(_STRATEGIES[key % 6]),
                trace=True,
            )
        )
    return rows


def main() -> None:
    """Run the rows, then check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder or hub id with a chat template")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--tie", type=float, default=0.25, help="two steps of bf16 between 16 and 32")
    parser.add_argument("--weights", choices=("16bit", "nf4"), default="16bit")
    parser.add_argument("--tensor-parallel", type=int, default=1)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_transformers(options.model, device, options.weights)
    requests = requests_of(AutoTokenizer.from_pretrained(options.model), options.rows)
    loaded = load_vllm_engine(
        options.model, device=device, weights=options.weights, max_rows=32, tensor_parallel=options.tensor_parallel
    )
    engine, done = loaded.engine, []
    for request in requests:
        engine.add(request)
    while engine.has_work:
        done += engine.step()
    table = sentence_table(engine.vocabulary, model.config.get_text_config().vocab_size)
    oracle, count = Oracle(model, sorted(engine.eos_ids), table, options.tie), Count()
    for finished in done:
        oracle.check(requests[finished.key], finished, count)
    print(f"{len(done)} rows, steps: {dict(count.steps)}; others (row, step, came, expected): {count.others}")
    print(f"ends: {dict(count.ends)}, of which {count.other_ends} are told otherwise with whole logits")
    print(f"the widest difference of an EOS probability: {count.widest:.3f}")


if __name__ == "__main__":
    main()
