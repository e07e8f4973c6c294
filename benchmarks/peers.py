"""Endmark beside vLLM on one card in one session: `python benchmarks/peers.py --vllm-path SITE-PACKAGES`.

An 8B shape (8 KV heads, a vocabulary of 128,256), random weights, EOS ignored, greedy. Four sets:
`mixed`, `long` prompts, `label` (8 tokens out) and `think` (1,000 to 2,000 out). Both engines take the rows in the
order of the file; `--systems` also has Endmark with all budgets known at once (`endmark:0:auto:lengths`), and
Endmark's engine over vLLM with strategies on every row (`drawn:16bit:256`, beside `vllm:none:256`).
Every system runs in a process of its own, over the same files, and its figures are printed as they come.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peers_systems import SYSTEMS, Result
from workload import Row

SHAPE_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DEFAULT = (
    "vllm:none:1024,vllm:bitsandbytes:256,vllm:fp8:1024,"
    "endmark:0:auto:file,endmark:0:fp8:file,endmark:0:fp8:file:fp8"
)
_SEED = 11


def sets(scale: float) -> dict[str, list[Row]]:
    """Return the four sets; `scale` takes that share of their rows."""
    rng = random.Random(_SEED)

    def row(prompt: int, answer: int) -> Row:
        return Row(tuple(rng.randrange(5, 32000) for _ in range(prompt)), answer)

    def count(full: int) -> range:
        return range(max(1, round(full * scale)))

    def lognormal(mean: float, spread: float, low: int, high: int) -> int:
        return min(high, max(low, int(rng.lognormvariate(mean, spread))))

    return {
        "mixed": [row(lognormal(4.6, 0.7, 8, 512), lognormal(5.2, 0.7, 4, 500)) for _ in count(1000)],
        "long": [row(rng.randrange(4000, 7500), rng.randrange(50, 350)) for _ in count(128)],
        "label": [row(lognormal(5.5, 0.6, 40, 900), 8) for _ in count(3000)],
        "think": [row(rng.randrange(50, 150), rng.randrange(1000, 2000)) for _ in count(384)],
    }


def make_model(folder: Path) -> None:
    """Write the model with random bf16 weights, and its tokeniser."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        network = LlamaForCausalLM(LlamaConfig(**SHAPE_8B))
    network.generation_config.eos_token_id = 2
    network.save_pretrained(folder)
    make_tokenizer(folder)


def make_tokenizer(folder: Path) -> None:
    """Write a tokeniser of one word a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ("<unk>", "<s>", "</s>")
    words = {word: index for index, word in enumerate(special)}
    words.update({f"▁w{index}": index for index in range(len(special), 128256)})
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def run_part(options: argparse.Namespace) -> None:
    """Run one system in this process; a line of JSON a set."""
    if options.part == "model":
        make_model(options.folder)
        return
    name, *words = options.part.split(":")
    work = {key: rows for key, rows in sets(options.scale).items() if key in options.sets.split(",")}
    for result in SYSTEMS[name](options.folder, work, words):
        print(result.line(), flush=True)


def run_all(options: argparse.Namespace) -> int:
    """Run each system in a process, then print the table; return how many did not finish."""
    command = [sys.executable, __file__, "--folder", str(options.folder), "--sets", options.sets]
    command += ["--scale", str(options.scale)]
    if not (options.folder / "config.json").is_file():
        subprocess.run([*command, "--part", "model"], check=True)
    results: list[Result] = []
    failed = 0
    for system in options.systems.split(","):
        environment = dict(os.environ)
        if system.startswith(("vllm", "drawn")) and options.vllm_path:
            environment["PYTHONPATH"] = os.pathsep.join([options.vllm_path, environment.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [*command, "--part", system], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"system"'):
                results.append(Result(**json.loads(line)))
                print(_line(results[-1]), flush=True)
        if process.wait():
            failed += 1
            print(f"{system}: exit code {process.returncode}", flush=True)
    print(table(results))
    return failed


def _line(result: Result) -> str:
    """Return a result for reading."""
    speed, total = result.output_tokens / result.seconds, result.prompt_tokens + result.output_tokens
    return (
        f"{result.system:<28} {result.work:<6} {speed:>9,.0f} output tokens/s "
        f"{total / result.seconds:>9,.0f} in all {result.seconds:>7.2f} s"
    )


def table(results: Sequence[Result]) -> str:
    """Return output tokens a second of every system on every set, and under each of ours its ratios to vLLM."""
    names = list(dict.fromkeys(item.work for item in results))
    speeds: dict[str, dict[str, float]] = {}
    for item in results:
        speeds.setdefault(item.system, {})[item.work] = item.output_tokens / item.seconds
    lines = ["| output tokens/s | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for system, cells in speeds.items():
        lines.append(_row(system, [f"{cells[name]:,.0f}" if name in cells else "" for name in names]))
        if system.startswith("vllm"):
            continue
        for peer, others in speeds.items():
            if peer.startswith("vllm"):
                both = [name in cells and name in others for name in names]
                shown = [
                    f"{cells[name] / others[name]:.2f}" if has else ""
                    for name, has in zip(names, both, strict=True)
                ]
                lines.append(_row(f"against {peer}", shown))
    return "\n".join(lines)


def _row(head: str, cells: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {head} | " + " | ".join(cells) + " |"


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/endmark-peers"), help="of the model, 16 GB")
    parser.add_argument("--systems", default=_DEFAULT, help="joined by commas")
    parser.add_argument("--sets", default="mixed,long,label,think", help="joined by commas")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows")
    parser.add_argument("--vllm-path", help="a folder of packages that holds vLLM, for its processes alone")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options)
        return
    sys.exit(run_all(options))


if __name__ == "__main__":
    main()
