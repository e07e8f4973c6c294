"""`python -m endmark.worker.finetune`: a fine-tuning in this process; spec in, progress out, as lines of JSON."""

import json
import os
import sys
import traceback
from pathlib import Path

from safetensors import SafetensorError

from endmark.jobs.errors import EndmarkError
from endmark.jobs.finetuning.request import FinetuneProgress, FinetuneSpec
from endmark.worker.finetune.holding import disk_error
from endmark.worker.process.parent import when_parent_ends


def main() -> int:
    """Read the spec from standard input and train; return the exit code."""
    # Standard output carries progress and nothing else, whatever libraries print.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    line = sys.stdin.readline()
    when_parent_ends(lambda: os._exit(1))

    def report(progress: FinetuneProgress) -> None:
        lines.write(progress.to_json() + "\n")

    try:
        spec = FinetuneSpec.from_json(line)
        import torch  # behind the spec, which is told wrong at once

        from endmark.worker.finetune.run import fine_tune

        try:
            fine_tune(spec, report, device="cuda" if torch.cuda.is_available() else "cpu")
        except (OSError, RuntimeError, SafetensorError) as error:
            found = disk_error(error, Path(spec.output))
            if found is None:
                raise
            traceback.print_exc()  # to the log
            raise found from error
    except EndmarkError as error:
        lines.write(json.dumps({"error": str(error), "hint": error.hint, "code": error.exit_code}) + "\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
