"""`python -m endmark.worker.doctor MODEL`: what `endmark doctor` runs, in a process that may load the model.

What it finds goes to standard output as JSON; whatever a library prints there meanwhile, to standard error.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from endmark.jobs.engines import AUTO, LOCAL, VLLM, EngineChoice
from endmark.jobs.errors import EndmarkError, UsageError
from endmark.jobs.sampling import TABLE, Sampling
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strict_json import strict_json
from endmark.jobs.template_args import read_template_args
from endmark.worker.doctor.beforehand import check_options


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments; the texts for people are those of `endmark doctor --help`."""
    parser = argparse.ArgumentParser(prog="endmark doctor")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--dataset")
    parser.add_argument("--trace")
    parser.add_argument("--adapter")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    for item in TABLE:
        parser.add_argument(item.option, type=item.kind.read)
    parser.add_argument("--system")
    parser.add_argument("--prompt-column", default="prompt")
    parser.add_argument("--template")
    parser.add_argument("--template-arg", action="append", default=[])
    parser.add_argument("--thinking-marks")
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--compare-precision", action="store_true")
    parser.add_argument("--engine", default=AUTO)
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--pipeline-parallel", type=int, default=1)
    parser.add_argument("--max-adapters", type=int, default=0)
    parser.add_argument("--executor", default=LOCAL)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the doctor, print what it finds as JSON; return the exit code."""
    options = parse(arguments)
    try:
        with redirect_stdout(sys.stderr), _redirected():
            found = _run(options)
        print(strict_json(found, ascii_only=True))  # noqa: T201
    except EndmarkError as error:
        hint = f"\n\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error}{hint}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


@contextmanager
def _redirected() -> Iterator[None]:
    """Let what is written past Python's own standard output, as an engine's processes do, go to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Collect and examine; return what was found."""
    if options.rows < 1:
        raise UsageError(f"--rows is {options.rows}: must be at least 1")
    if options.model is None and options.trace is None:
        print(f"no model given: the bundled `{DEMO_MODEL}` serves", file=sys.stderr)  # noqa: T201
    engine = EngineChoice(
        options.engine, options.tensor_parallel, options.pipeline_parallel, options.max_adapters, options.executor
    )
    if options.compare_precision and engine.name() == VLLM:
        raise UsageError("`--compare-precision` is of Endmark's own engine", hint="leave one of the two out")
    given = {item.name: value for item in TABLE if (value := getattr(options, item.name)) is not None}
    spec = GenerationSpec(
        model=options.model or DEMO_MODEL,
        adapter=options.adapter,
        max_new_tokens=options.max_new_tokens,
        sampling=Sampling(**given),
        system=options.system,
        prompt_column=options.prompt_column,
        template=options.template,
        raw=options.raw,
        template_args=read_template_args(options.template_arg),
        thinking_marks=options.thinking_marks,
    )
    check_options(options, spec)
    # Behind the checks above, so that a wrong call is told before torch has been imported.
    import torch
    from transformers.utils import logging

    from endmark.worker.doctor.checks import examine
    from endmark.worker.doctor.collect import Sample, collect
    from endmark.worker.doctor.result import as_json
    from endmark.worker.doctor.traced import read_traced

    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    evidence = (
        read_traced(options.trace, limit=options.rows, model=options.model)
        if options.trace is not None
        else collect(
            Sample(
                spec,
                options.dataset,
                options.rows,
                given=given,
                device=device,
                compare_precision=options.compare_precision,
                engine=engine,
            )
        )
    )
    return as_json(evidence, examine(evidence))


if __name__ == "__main__":
    sys.exit(main())
