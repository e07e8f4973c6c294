"""`python -m worker.finetune SPEC.json`: a fine-tuning in this process; its progress as JSON lines."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.errors import EndmarkError
from jobs.finetuning import FinetuneProgress, FinetuneSpec


def main(words: Sequence[str]) -> int:
    """Read the spec and train; return the exit code."""
    # Standard output carries progress and nothing else, whatever libraries print.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def report(progress: FinetuneProgress) -> None:
        lines.write(progress.to_json() + "\n")

    try:
        spec = FinetuneSpec.from_json(Path(words[0]).read_text(encoding="utf-8"))
        import torch

        from worker.finetune.run import fine_tune

        fine_tune(spec, report, device="cuda" if torch.cuda.is_available() else "cpu")
    except EndmarkError as error:
        lines.write(json.dumps({"error": str(error), "hint": error.hint, "code": error.exit_code}) + "\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
