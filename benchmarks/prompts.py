"""The prompts of a CSV file as a worker would put them to a model."""

import csv
from collections.abc import Sequence
from pathlib import Path

from endmark.jobs.prompts import RowRequest
from endmark.jobs.spec import GenerationSpec
from endmark.worker.models.loaded import LoadedEngine
from endmark.worker.service.prompting import Prompt, Prompter

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "prompts.csv"


def read_prompts(path: Path = EXAMPLES) -> list[str]:
    """Return the column `prompt` of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [row["prompt"] for row in csv.DictReader(file)]


def encode(loaded: LoadedEngine, prompts: Sequence[str], spec: GenerationSpec | None = None) -> list[Prompt]:
    """Return prompts with their token ids under a spec; under that of a job without options by default."""
    spec = spec or GenerationSpec()
    return Prompter(loaded.tokenizer).encode([Prompt(spec, RowRequest(prompt, None, {})) for prompt in prompts])
