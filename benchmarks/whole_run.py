"""The whole of `endmark run` beside its engine alone, on a GPU: `python benchmarks/whole_run.py`.

A model of Llama-2-7B's shape with random weights is written to a folder, `endmark worker` loads it, and `endmark
run` takes a CSV of the published workload through broker, Celery, tokeniser, SQLite and back to a CSV. Its time is
the command's own, from start to exit; the engine alone gets the same rows, tokenised, in a process before. Where
there are more GPUs than one, the job runs on the first and then on all, and the ratio is printed.
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

from endmark.worker.supervisor.gpus import visible_gpus

_LONGEST_START = 300  # seconds
_BIN = [sys.executable, "-c", "from endmark.cli.main import main; main()"]


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
    from endmark.worker.engine.request import Request
    from endmark.worker.models.loader import load_engine

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
    folder, rows = options.folder, mixed_rows(options.rows, 7, 32000)
    if options.part == "model":
        save_model(folder / "model", options.layers, options.device)
    elif options.part == "engine":
        seconds, tokens = engine_alone(folder / "model", rows, options.device)
        (folder / "engine.json").write_text(json.dumps([seconds, tokens]), encoding="utf-8")
    else:
        for part in ("model", "engine"):  # in processes of their own, which give their memory back
            subprocess.run([sys.executable, *sys.argv, "--part", part], check=True)
        found = len(visible_gpus())
        counts = [0] if options.device == "cpu" else [1, found] if found > 1 else [1]
        speeds = [whole_run(folder, rows, count) for count in counts]
        seconds, tokens = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
        print(f"engine alone {tokens / seconds:,.0f} tokens/s ({tokens:,} in {seconds:.1f} s)")
        print(f"endmark run  {speeds[0]:,.0f} tokens/s, {speeds[0] * seconds / tokens:.3f} of it")
        for count, speed in zip(counts[1:], speeds[1:], strict=True):
            print(f"on {count} GPUs   {speed:,.0f} tokens/s, {speed / speeds[0]:.2f} times one")


def whole_run(folder: Path, rows: list[Row], gpus: int) -> float:
    """Start a worker on the first GPUs (0: on the CPU), run the command and return its tokens a second."""
    environment = {**os.environ, "ENDMARK_HOME": str(folder / "home")}
    model = ["--model", str(folder / "model")]
    write_dataset(folder / "warm.csv", rows[: 260 * max(1, gpus)])
    write_dataset(folder / "rows.csv", rows)
    started = time.monotonic()
    chosen = ",".join(map(str, range(gpus))) or "cpu"
    log = folder / "worker.log"
    with log.open("w") as errors:
        worker = subprocess.Popen([*_BIN, "worker", *model, "--gpus", chosen], env=environment, stderr=errors)
    try:
        while log.read_text(encoding="utf-8").count(" loaded ") < max(1, gpus):
            if worker.poll() is not None or time.monotonic() - started > _LONGEST_START:
                sys.exit("the worker has not loaded the model")
            time.sleep(0.2)
        print(f"worker on {chosen}: loaded after {time.monotonic() - started:.0f} s", flush=True)
        for name in ("warm", "rows"):
            files = [str(folder / f"{name}.csv"), "-o", str(folder / f"{name}.out.csv")]
            seconds = timed([*_BIN, "run", *files, "--raw", *model], environment)
    finally:
        worker.terminate()
        worker.wait()
        print(log.read_text(encoding="utf-8")[-1500:])
    with (folder / "rows.out.csv").open(newline="", encoding="utf-8") as handle:
        tokens = sum(int(row["completion_tokens"]) for row in csv.DictReader(handle))
    print(f"worker on {chosen}: {tokens:,} tokens in {seconds:.1f} s", flush=True)
    return tokens / seconds


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Run a command, printing what it says with the seconds since its start; return how long it took."""
    begun = time.monotonic()
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(f"  {time.monotonic() - begun:6.2f} s  {line}", end="", flush=True)
    if process.returncode:
        sys.exit(f"`{command[3]}` ended with {process.returncode}")
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
