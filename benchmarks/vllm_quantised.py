"""Small random checkpoints in FP8, GPTQ and AWQ through vLLM: `python benchmarks/vllm_quantised.py [KIND]`.

Each checkpoint is written, run by Endmark's engine over vLLM as a worker would load it, and judged as
`benchmarks/vllm_families.py` judges: by the scores of transformers behind the same tokens, with the numbers that
the checkpoint stands for. Scales have four significant bits, so these are numbers of bf16 too, and neither side
rounds them. Where a checkpoint wants the inputs of its layers in FP8, those of transformers are rounded alike.
Each kind has a process of its own, side by side. On a CPU the stand-in of tests/fakes runs the plain numbers.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig
from vllm_families import CONTEXT, END, ROWS, SIZES, judge, requests, save_model

from endmark.jobs.errors import Refusal
from endmark.worker.models.loader import load_engine
from endmark.worker.vllm import loading

_GROUP = 128  # inputs that share a scale, of GPTQ and AWQ
_LARGEST = 448.0  # of FP8
_CALM = {"initializer_range": 0.06}  # with larger weights the rounding of inputs to FP8 decides the answers
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight numbers stands in which four bits, from the lowest

Packed = tuple[
    dict[str, Tensor], Tensor
]  # what the checkpoint holds of a layer, and the weights that it stands for


def few_bits(scales: Tensor) -> Tensor:
    """Return scales rounded up to four significant bits."""
    mantissa, exponent = torch.frexp(scales.float())
    return torch.ldexp((mantissa * 16).ceil() / 16, exponent)


def words(numbers: Tensor, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Return (…, N / 8) int32 of (…, N) numbers below 16, eight in a word."""
    eights = numbers.long().unflatten(-1, (-1, 8))
    packed = sum(eights[..., which] << 4 * place for place, which in enumerate(order))
    assert isinstance(packed, Tensor)
    return packed.to(torch.int32)  # of the upper half the sign bit is the highest of the eighth number


def fp8(weight: Tensor) -> Packed:
    """Return a (N, K) weight as compressed-tensors has it in FP8: a scale a row."""
    scales = few_bits(weight.abs().amax(-1, keepdim=True) / _LARGEST)
    stored = (weight / scales).to(torch.float8_e4m3fn)
    return {"weight": stored, "weight_scale": scales.bfloat16()}, stored.float() * scales


def gptq(weight: Tensor) -> Packed:
    """Return a (N, K) weight as GPTQ has it: four bits around 8, a scale a row and group, packed along K."""
    grouped = weight.T.unflatten(0, (-1, _GROUP))  # (K / G, G, N)
    scales = few_bits(grouped.abs().amax(1) / 7)
    numbers = ((grouped / scales[:, None]).round() + 8).clamp(0, 15)
    zeros = torch.full_like(scales, 7)  # one less than the number that stands for 0
    held = {
        "qweight": words(numbers.flatten(0, 1).T).T,
        "qzeros": words(zeros),
        "scales": scales.bfloat16(),
        "g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // _GROUP,
    }
    return held, ((numbers - 8) * scales[:, None]).flatten(0, 1).T


def awq(weight: Tensor) -> Packed:
    """Return a (N, K) weight as AWQ has it: four bits, a scale and a zero a row and group, packed along N."""
    grouped = weight.T.unflatten(0, (-1, _GROUP))
    low, high = grouped.amin(1), grouped.amax(1)
    scales = few_bits((high - low) / 15)
    zeros = (-low / scales).round().clamp(0, 15)
    numbers = ((grouped / scales[:, None]).round() + zeros[:, None]).clamp(0, 15)
    held = {
        "qweight": words(numbers.flatten(0, 1), _AWQ_ORDER),
        "qzeros": words(zeros, _AWQ_ORDER),
        "scales": scales.bfloat16(),
    }
    return held, ((numbers - zeros[:, None]) * scales[:, None]).flatten(0, 1).T


def _numbers_of_fp8(**own: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return how compressed-tensors names numbers of FP8."""
    return {"num_bits": 8, "type": "float", "symmetric": True, **own}


KINDS: dict[str, tuple[Callable[[Tensor], Packed], dict[str, Any]]] = {
    "fp8": (
        fp8,
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": _numbers_of_fp8(strategy="channel", dynamic=False),
                    "input_activations": _numbers_of_fp8(strategy="token", dynamic=True),
                }
            },
        },
    ),
    "gptq": (
        gptq,
        {"quant_method": "gptq", "bits": 4, "group_size": _GROUP, "desc_act": False, "sym": True},
    ),
    "awq": (
        awq,
        {"quant_method": "awq", "bits": 4, "group_size": _GROUP, "zero_point": True, "version": "gemm"},
    ),
}


def write(kind: str, quantised: Path, plain: Path) -> str:
    """Write a checkpoint, and the bf16 weights that it stands for; return what our engine says of it.

    Raises:
        RuntimeError: our engine would not refuse it.
    """
    pack, said = KINDS[kind]
    for folder in (quantised, plain):
        save_model(LlamaConfig(**SIZES | _CALM), folder)
    stored, stands_for = load_file(plain / "model.safetensors"), {}
    for name in list(stored):
        if "_proj." in name:
            held, numbers = pack(stored.pop(name).float())
            stored |= {name.removesuffix("weight") + part: tensor.contiguous() for part, tensor in held.items()}
            stands_for[name] = numbers.bfloat16()
            assert torch.equal(stands_for[name].float(), numbers), "bf16 rounds it"
    whole = {name: stands_for.get(name, weight) for name, weight in load_file(plain / "model.safetensors").items()}
    save_file({name: weight.contiguous() for name, weight in whole.items()}, plain / "model.safetensors")
    save_file(stored, quantised / "model.safetensors", {"format": "pt"})
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    try:
        load_engine(str(quantised), device="cpu")
    except Refusal as refusal:
        return str(refusal)
    raise RuntimeError("our engine takes this checkpoint")


def round_inputs(model: Any) -> None:  # noqa: ANN401
    """Round the inputs of a model's layers to FP8 with a scale a token, as a checkpoint may ask."""

    def rounded(_module: object, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        scales = (given[0].float().abs().amax(-1, keepdim=True) / _LARGEST).clamp(min=1e-12)
        stored = (given[0].float() / scales).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
        return ((stored.float() * scales).to(given[0].dtype), *given[1:])

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(rounded)


def run_one(kind: str) -> None:
    """Write, run and judge one kind in this process."""
    started = time.perf_counter()
    on_card = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if on_card else ("cpu", torch.float32)
    usual = loading.engine_options
    narrow = {"max_model_len": CONTEXT, "enforce_eager": True}  # several run side by side on one card
    narrow |= {"gpu_memory_utilization": 0.08, "kv_cache_memory_bytes": 1 << 30}
    loading.engine_options = lambda *given, **named: usual(*given, **named) | narrow
    with tempfile.TemporaryDirectory() as held:
        quantised, plain = Path(held) / "quantised", Path(held) / "plain"
        refusal, rows = write(kind, quantised, plain), requests()
        loaded = loading.load_vllm_engine(
            str(quantised if on_card else plain),
            weights="auto" if on_card else "16bit",
            device=device,
            max_rows=ROWS,
        )
        done = []
        for row in rows:
            loaded.engine.add(row)
        while loaded.engine.has_work:
            done += loaded.engine.step()
        rough, exact = (
            AutoModelForCausalLM.from_pretrained(plain, dtype=numbers).to(device).eval()
            for numbers in (dtype, torch.float32)
        )
    if kind == "fp8" and on_card:
        round_inputs(rough)
        round_inputs(exact)
    counts, ends = Counter[str](), Counter[str]()
    for item in done:
        ended = item.end_token_id is not None
        ends[str(item.verdict.eos_source) if ended else "none"] += 1
        if not rows[item.key].strategies:
            counts += judge(rough, exact, rows[item.key], [*item.token_ids, *([END] if ended else [])])
    print(
        f"{kind}: weights `vllm: {loaded.description.weights}`; {len(done)} rows; {counts['best']} tokens are "
        f"transformers' best, {counts['near']} near ties, {counts['other']} others; its own bf16 changes "
        f"{counts['bf16']}; ends {dict(ends)}; {time.perf_counter() - started:.0f} s; {refusal}",
        flush=True,
    )


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; all by default")
    parser.add_argument("--seconds", type=float, default=120, help="that they may take")
    parser.add_argument("--part", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_one(options.part)
        sys.stdout.flush()
        os._exit(0)  # vLLM's own end takes seconds and says much
    names, until = options.kinds or list(KINDS), time.monotonic() + options.seconds
    command = [sys.executable, __file__, "--part"]
    parts = {name: subprocess.Popen([*command, name], stderr=subprocess.STDOUT) for name in names}
    failed = 0
    for name, process in parts.items():
        try:
            code = process.wait(max(0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            code = -1
        failed += code != 0
        print(f"{name}: exit code {code}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
