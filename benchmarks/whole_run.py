"""The whole of `endmark run` beside its engine alone, on a GPU: `python benchmarks/whole_run.py`.

A model of Llama-2-7B's shape with random weights is written to a folder, `endmark worker` loads it, and `endmark
run` takes a CSV of the published workload through broker, Celery, tokeniser, SQLite and back to a CSV. Its time is
the command's own, from start to exit; the engine alone gets the same rows, tokenised, in a process before. Where
there are more GPUs than one, the job runs on the first and then on all, and the ratio is printed.
`--sets mixed,label` takes the sets of `peers.py` and its 8B shape instead.
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
from peers import make_model, sets
from seven_b import SHAPE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from workload import Row, mixed_rows

from endmark.jobs.launch.gpus import visible_gpus

PUBLISHED = "published"  # the name of the published workload
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


def works(options: argparse.Namespace) -> dict[str, list[Row]]:
    """Return the rows of each set by its name."""
    if options.sets == PUBLISHED:
        return {PUBLISHED: mixed_rows(options.rows, 7, 32000)}
    found = sets(options.scale)
    return {name: found[name] for name in options.sets.split(",")}


def warm_rows(gpus: int) -> list[Row]:
    """Return rows that have kernels compiled, whose prompts are none of those that are measured."""
    return mixed_rows(260 * max(1, gpus), 8, 32000)


def engine_alone(model: Path, work: dict[str, list[Row]], device: str) -> dict[str, tuple[float, int]]:
    """Return the seconds and tokens of each set by the engine alone, its kernels compiled."""
    from endmark.worker.engine.request import Request
    from endmark.worker.models.loader import load_engine

    started = time.monotonic()
    engine = load_engine(str(model), device=device).engine
    print(f"engine alone: loaded in {time.monotonic() - started:.0f} s", flush=True)

    def run(rows: list[Row]) -> tuple[float, int]:
        for key, row in enumerate(rows):
            prompt = row.prompt_token_ids
            engine.add(Request(key=key, prompt_token_ids=prompt, max_new_tokens=row.max_tokens, stream=key))
        started = time.perf_counter()
        tokens = 0
        while engine.has_work:
            tokens += sum(finished.completion_tokens for finished in engine.step())
        return time.perf_counter() - started, tokens

    run(warm_rows(1))
    return {name: run(rows) for name, rows in work.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000, help="Of the published workload.")
    parser.add_argument("--sets", default=PUBLISHED, help="Or those of `peers.py`, joined by commas.")
    parser.add_argument("--scale", type=float, default=1.0, help="Share of their rows.")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/endmark-7b"))
    parser.add_argument("--model", type=Path, help="Folder of the model; by default it is written anew.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--part", choices=["model", "engine"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder, work = options.folder, works(options)
    model = options.model or folder / "model"
    if options.part == "model":
        if options.sets == PUBLISHED:
            save_model(model, options.layers, options.device)
        else:
            make_model(model)
    elif options.part == "engine":
        (folder / "engine.json").write_text(
            json.dumps(engine_alone(model, work, options.device)), encoding="utf-8"
        )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("model", "engine") if options.model is None else ("engine",):
            # in processes of their own, which give their memory back
            subprocess.run([sys.executable, *sys.argv, "--part", part], check=True)
        found = len(visible_gpus())
        counts = [0] if options.device == "cpu" else [1, found] if found > 1 else [1]
        report(folder, {count: whole_run(folder, model, work, count) for count in counts})


def report(folder: Path, speeds: dict[int, dict[str, float]]) -> None:
    """Print the tokens a second of each set, by the number of GPUs, beside those of the engine alone."""
    alone: dict[str, tuple[float, int]] = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    first, *others = speeds
    for name, (seconds, tokens) in alone.items():
        print(f"{name}: engine alone {tokens / seconds:,.0f} tokens/s ({tokens:,} in {seconds:.1f} s)")
        one = speeds[first][name]
        print(f"{name}: endmark run  {one:,.0f} tokens/s, {one * seconds / tokens:.3f} of it")
        for count in others:
            speed = speeds[count][name]
            print(f"{name}: on {count} GPUs   {speed:,.0f} tokens/s, {speed / one:.2f} times one")


def whole_run(folder: Path, model: Path, work: dict[str, list[Row]], gpus: int) -> dict[str, float]:
    """Start a worker on the first GPUs (0: on the CPU), run the command; return its tokens a second by set."""
    environment = {**os.environ, "ENDMARK_HOME": str(folder / "home")}
    started = time.monotonic()
    chosen = ",".join(map(str, range(gpus))) or "cpu"
    log = folder / "worker.log"
    speeds: dict[str, float] = {}
    with log.open("w") as errors:
        command = [*_BIN, "worker", "--model", str(model), "--gpus", chosen]
        worker = subprocess.Popen(command, env=environment, stderr=errors)
    try:
        while log.read_text(encoding="utf-8").count(" loaded ") < max(1, gpus):
            if worker.poll() is not None or time.monotonic() - started > _LONGEST_START:
                sys.exit("the worker has not loaded the model")
            time.sleep(0.2)
        print(f"worker on {chosen}: loaded after {time.monotonic() - started:.0f} s", flush=True)
        for name, rows in {"warm": warm_rows(gpus), **work}.items():
            source, results = folder / f"{name}.csv", folder / f"{name}.out.csv"
            write_dataset(source, rows)
            command = [*_BIN, "run", str(source), "-o", str(results), "--raw", "--model", str(model)]
            seconds = timed(command, environment)
            with results.open(newline="", encoding="utf-8") as handle:
                tokens = sum(int(row["completion_tokens"]) for row in csv.DictReader(handle))
            print(f"worker on {chosen}, {name}: {tokens:,} tokens in {seconds:.1f} s", flush=True)
            speeds[name] = tokens / seconds
    finally:
        worker.terminate()
        worker.wait()
        print(log.read_text(encoding="utf-8")[-1500:])
    return speeds


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
