"""A 70B shape over two cards beside two workers of an 8B, each on its card: `python benchmarks/vllm_cards.py`.

Both in 4 bits (GPTQ) under Endmark's engine over vLLM, with strategies on every row of the set `mixed` of
`benchmarks/peers.py`. The weights are dummies, which vLLM makes itself: integers as memory holds them, scales and
the rest random. First the two workers of the 8B run side by side, the same rows each, then the 70B runs alone.
vLLM compiles nothing here and captures the graphs of four sizes of batch, so that it starts in less than a minute.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import SHAPE_8B, make_tokenizer, sets
from peers_systems import Result, measure_drawn

_SHAPES = {
    "8b": SHAPE_8B,
    "70b": SHAPE_8B
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
}
_PACKED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_PACKED += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_QUANTISED = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 128,
    "desc_act": False,
    "sym": True,
    "modules_in_block_to_quantize": [[name] for name in _PACKED],
}
_ROWS = 256
_QUICK = {
    "load_format": "dummy",
    "max_model_len": 4096,
    "kv_cache_memory_bytes": 40 << 30,
    "gpu_memory_utilization": 0.45,  # must be free at the start, and says nothing else beside the line above
    "compilation_config": {
        "mode": 0,
        "cudagraph_mode": "FULL_DECODE_ONLY",
        "cudagraph_capture_sizes": [32, 64, 128, _ROWS],
    },
}


def write(shape: str, folder: Path) -> None:
    """Write what vLLM reads of a model before its weights."""
    from transformers import GenerationConfig, LlamaConfig

    LlamaConfig(**_SHAPES[shape], dtype="bfloat16", architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": _QUANTISED}))
    GenerationConfig(eos_token_id=2).save_pretrained(folder)
    make_tokenizer(folder)


def run_part(shape: str, cards: int, scale: float) -> None:
    """Run a shape over some cards in this process; a line of JSON at its end."""
    from endmark.worker.vllm import loading

    started, usual = time.perf_counter(), loading.engine_options
    loading.engine_options = lambda *given, **named: usual(*given, **named) | _QUICK
    with tempfile.TemporaryDirectory() as held:
        write(shape, Path(held))
        loaded = loading.load_vllm_engine(held, max_rows=_ROWS, tensor_parallel=cards)
    name = f"{shape} {loaded.description.weights}, {cards} card{'s' * (cards > 1)}"
    print(f"{name}: started in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    work = {"mixed": sets(scale)["mixed"]}
    print(next(measure_drawn(name, loaded.engine, work)).line(), flush=True)


def run_all(scale: float, shapes: list[str]) -> int:
    """Run the two workers of the 8B, then the 70B, or those that are named; return how many failed."""
    command = [sys.executable, __file__, "--scale", str(scale), "--part"]
    groups = {"8b": [("8b", 1, "0"), ("8b", 1, "1")], "70b": [("70b", 2, "0,1")]}
    failed = 0
    for shape in shapes:
        processes = [
            subprocess.Popen(
                [*command, name, "--cards", str(cards)], stdout=subprocess.PIPE, text=True, env=_on(which)
            )
            for name, cards, which in groups[shape]
        ]
        speeds = []
        for process in processes:
            lines, _ = process.communicate()
            failed += process.returncode != 0
            found = [Result(**json.loads(line)) for line in lines.splitlines() if line.startswith('{"system"')]
            for item in found:
                speeds.append(item.output_tokens / item.seconds)
                print(f"{item.system}: {speeds[-1]:,.0f} output tokens/s, {item.seconds:.1f} s", flush=True)
        print(f"{shape} on two cards: {sum(speeds):,.0f} output tokens/s together", flush=True)
    return failed


def _on(cards: str) -> dict[str, str]:
    """Return the environment of a process that sees some cards."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": cards}


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", help="of 8b and 70b; both by default")
    parser.add_argument("--scale", type=float, default=0.3, help="share of the rows of the set")
    parser.add_argument("--cards", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=_SHAPES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options.part, options.cards, options.scale)
        sys.stdout.flush()
        os._exit(0)  # vLLM's own end takes seconds and says much
    sys.exit(run_all(options.scale, options.shapes or list(_SHAPES)))


if __name__ == "__main__":
    main()
