"""The whole of `endmark run` beside its engine alone, on a GPU: `python benchmarks/whole_run.py`.

A model of Llama-2-7B's shape with random weights is written to a folder, `endmark worker` loads it, and `endmark
run` takes a CSV of the published workload through broker, Celery, tokeniser, SQLite and back to a CSV. Its time is
the command's own, from start to exit; the engine alone gets the same rows, tokenised, in this process before.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from seven_b import SHAPE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from workload import Row, mixed_rows

_BIN = [sys.executable, "-c", "from cli.main import main; main()"]


def save_model(folder: Path, layers: int, device: str) -> None:
    """Write the model in 16 bits, with a tokeniser that has one token a word."""
    config = LlamaConfig(**{**SHAPE.to_dict(), "num_hidden_layers": layers})
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        network = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    network.generation_config.eos_token_id = 2
    network.save_pretrained(folder)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"▁w{index}": index for index in range(3, 32000)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


def write_dataset(path: Path, rows: list[Row]) -> None:
    """Write the workload as a CSV with a budget of its own for each row."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["prompt", "max_new_tokens"])
        writer.writerows((" ".join(f"w{token}" for token in row.prompt_token_ids), row.max_tokens) for row in rows)


def engine_alone(folder: Path, rows: list[Row], device: str) -> tuple[float, int]:
    """Return the seconds and tokens of the engine alone, its kernels compiled."""
    from worker.engine.loader import load_engine
    from worker.engine.request import Request

    started = time.monotonic()
    engine = load_engine(str(folder), device=device).engine
    print(f"engine alone: loaded in {time.monotonic() - started:.0f} s", flush=True)
    for some in (rows[:260], rows):
        for key, row in enumerate(some):
            prompt = row.prompt_token_ids
            engine.add(Request(key=key, prompt_token_ids=prompt, max_new_tokens=row.max_tokens, stream=key))
        started = time.perf_counter()
        tokens = 0
        while engine.has_work:
            tokens += sum(finished.completion_tokens for finished in engine.step())
        seconds = time.perf_counter() - started
    return seconds, tokens


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/endmark-7b"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--part", choices=["model", "engine", "run"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder, rows = options.folder, mixed_rows(2000, 7, 32000)[: options.rows]
    if options.part == "model":
        save_model(folder / "model", options.layers, options.device)
    elif options.part == "engine":
        seconds, tokens = engine_alone(folder / "model", rows, options.device)
        (folder / "engine.json").write_text(json.dumps([seconds, tokens]), encoding="utf-8")
    else:
        for part in ("model", "engine"):  # in processes of their own, which give their memory back
            subprocess.run([sys.executable, *sys.argv, "--part", part], check=True)
        whole_run(folder, rows, options.device)


def whole_run(folder: Path, rows: list[Row], device: str) -> None:
    """Start a worker, run the command and print both figures."""
    environment = {**os.environ, "ENDMARK_HOME": str(folder / "home")}
    model = ["--model", str(folder / "model")]
    write_dataset(folder / "warm.csv", rows[:100])
    write_dataset(folder / "rows.csv", rows)
    started = time.monotonic()
    gpus = "cpu" if device == "cpu" else "all"
    with (folder / "worker.log").open("w") as log:
        worker = subprocess.Popen([*_BIN, "worker", *model, "--gpus", gpus], env=environment, stderr=log)
    try:
        for name in ("warm", "rows"):
            command = [
                *_BIN,
                "run",
                str(folder / f"{name}.csv"),
                "-o",
                str(folder / f"{name}.out.csv"),
                "--raw",
                *model,
            ]
            begun = time.monotonic()
            subprocess.run(
                command, env=environment, check=True, stderr=None if name == "rows" else subprocess.DEVNULL
            )
            seconds = time.monotonic() - begun
            if name == "warm":
                print(
                    f"worker and first {min(100, len(rows))} rows: {time.monotonic() - started:.0f} s", flush=True
                )
    finally:
        worker.terminate()
        worker.wait()
        print((folder / "worker.log").read_text()[-1500:])
    with (folder / "rows.out.csv").open(newline="", encoding="utf-8") as handle:
        tokens = sum(int(row["completion_tokens"]) for row in csv.DictReader(handle))
    alone_seconds, alone_tokens = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    alone, whole = alone_tokens / alone_seconds, tokens / seconds
    print(f"engine alone {alone:,.0f} tokens/s ({alone_tokens:,} in {alone_seconds:.1f} s)")
    print(f"endmark run  {whole:,.0f} tokens/s ({tokens:,} in {seconds:.1f} s), {whole / alone:.3f} of it")


if __name__ == "__main__":
    main()
