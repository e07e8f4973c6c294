"""Makes a model that thinks: `python -m examples.thinking_model.make DIR` the demo, some minutes on two cores.

A model, the bundled one if no other is named, gets two more tokens, `<think>` and `</think>`; `endmark finetune`
teaches it to think, and its adapter is merged into the weights. `--model` takes another, with `--examples` such as
`own_answers` writes.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from endmark.worker.demo import MODEL_DIR
from examples.thinking_model.corpus import CLOSE, OPEN, write_examples

_SEED = 7
_MULTIPLE = 64  # rows of the embedding, as NF4 on a CPU needs them


def make_base(source: Path, folder: Path) -> None:
    """Save a model with the two marks; their rows are drawn at random, as long as others are."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    known = len(tokenizer)
    tokenizer.add_tokens([OPEN, CLOSE])
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=_MULTIPLE, mean_resizing=False)
    rows = model.get_input_embeddings().weight.data
    torch.manual_seed(_SEED)
    fresh = torch.randn(len(tokenizer) - known, rows.shape[1])
    length = rows[:known].norm(dim=-1).mean()
    rows[known : len(tokenizer)] = fresh / fresh.norm(dim=-1, keepdim=True) * length
    rows[len(tokenizer) :] = 0
    tokenizer.save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)


def merge(base: Path, adapter: Path, folder: Path) -> None:
    """Save the model with its adapter's weights in it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def main() -> None:
    """Make, train and merge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="folder")
    parser.add_argument("--examples", type=Path, help="chats with thoughts; those of the demo by default")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--learning-rate", default="2e-3")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--max-length", type=int, default=224, help="tokens of an example; a longer thought is cut"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base, adapter, examples = (Path(place) / name for name in ("base", "adapter", "examples.jsonl"))
        make_base(arguments.model, base)
        if arguments.examples is None:
            write_examples(examples)
        examples = arguments.examples or examples
        command = [sys.executable, "-m", "endmark.cli.main", "finetune", examples, "-o", adapter, "--model", base]
        command += ["--here", "--steps", arguments.steps, "--learning-rate", arguments.learning_rate]
        command += ["--batch-size", arguments.batch_size]
        command += ["--max-length", arguments.max_length, "--alpha", "64", "--dropout", "0", "--held-out", "8"]
        subprocess.run(list(map(str, command)), check=True)
        merge(base, adapter, arguments.folder)


if __name__ == "__main__":
    main()
