"""The options that describe a job, shared by all commands that make one, and the spec they stand for."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from endmark.cli.sampling import SAMPLING_OPTIONS, chosen_sampling
from endmark.cli.shapes import SHAPE_OPTIONS, chosen_shape
from endmark.cli.terminal import note
from endmark.jobs.conflicts import consistent
from endmark.jobs.errors import SpecError
from endmark.jobs.finetuning.adapters import ADAPTER_BASE, ADAPTER_CONFIG, check_adapter
from endmark.jobs.hub import check_model_name, local_folder
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import REGISTRY, Strategy, build_strategies
from endmark.jobs.strategies.parsing import parse_strategies
from endmark.jobs.template_args import read_template_args

_WANTED = {
    "model": "give a folder with `config.json`, or a hub id",
    "adapter": "give a folder with `adapter_config.json`: `endmark finetune` makes one",
}
_PRIORITY = 1_000_000  # the ledger's integers hold more
Command = TypeVar("Command", bound=Callable[..., Any])


def strategy_names(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Return the strategies whose names begin so, for shell completion."""
    del context, parameter
    return [name for name in REGISTRY if name.startswith(begun)]


def _allow_any_base(context: click.Context, parameter: click.Parameter, value: str) -> None:
    """Tell this process, and those that it starts, whether an adapter's base may be called otherwise."""
    del context, parameter
    if value == "any":
        os.environ[ADAPTER_BASE] = value


adapter_base_option = click.option(
    "--adapter-base",
    type=click.Choice(["same", "any"]),
    default="same",
    show_default=True,
    expose_value=False,
    is_eager=True,
    callback=_allow_any_base,
    help="`any` takes an adapter whose base has another name; sizes are compared all the same.",
)
template_arg_option = click.option(
    "--template-arg",
    "template_args",
    metavar="KEY=JSON",
    multiple=True,
    help="Give the chat template an argument, such as enable_thinking=false; may be repeated.",
)
thinking_marks_option = click.option(
    "--thinking-marks",
    metavar="OPEN,CLOSE",
    help="What stands around the model's thoughts; `none` if it has none.  [default: as its files say]",
)
_MODEL = [
    click.option("--model", metavar="MODEL", help="Hub id or folder.  [default: the bundled demo model]"),
    click.option("--adapter", metavar="FOLDER", help="Adapter trained on the model, by `endmark finetune`."),
    adapter_base_option,
]
_SPEC = [
    *_MODEL,
    click.option(
        "--strategy",
        "strategies",
        metavar="NAME[:key=value,…]",
        multiple=True,
        shell_complete=strategy_names,
        help="How answers are made to end; may be repeated. `endmark strategies` lists them.  [default: baseline]",
    ),
    click.option(
        "--on-truncation",
        type=click.Choice(["keep", "continue", "escalate"]),
        default="keep",
        show_default=True,
        help="What to do with an answer that is cut: keep it, go on from it, or try the next strategy.",
    ),
    click.option(
        "--max-new-tokens", type=int, default=256, show_default=True, help="Token budget of each answer."
    ),
    *SAMPLING_OPTIONS,
    click.option("--samples", type=int, default=1, show_default=True, help="Answers of each prompt, drawn apart."),
    click.option(
        "--logprobs",
        type=int,
        metavar="K",
        help="Keep log probabilities of the answer's tokens and of the K best of each step, for JSONL.",
    ),
    click.option(
        "--dedupe",
        is_flag=True,
        help="Answer rows that ask the same once: greedy ones, and those with the same seed of their own.",
    ),
    *SHAPE_OPTIONS,
    click.option("--system", metavar="TEXT", help="A system turn before every prompt."),
    click.option(
        "--prompt-column", default="prompt", show_default=True, metavar="NAME", help="The column of the prompts."
    ),
    click.option("--template", metavar="TEXT", help='Make prompts from columns: "Summarise: {text}".'),
    template_arg_option,
    click.option("--raw", is_flag=True, help="Give the prompt to the model without its chat template."),
    click.option(
        "--no-row-options",
        is_flag=True,
        help="Take columns such as `temperature`, `seed` and `strategy` as data, not as options of their rows.",
    ),
    click.option(
        "--allow-control-tokens",
        is_flag=True,
        help="Let `</s>` and the like in prompts be control tokens; else they are text.",
    ),
    click.option(
        "--token-healing",
        is_flag=True,
        help="Let an answer go on inside the last word of its prompt: with `--raw`, or behind a begun answer.",
    ),
    thinking_marks_option,
    click.option("--trace", is_flag=True, help="Keep the EOS probability of every step."),
    click.option("--name", metavar="TEXT", help="Name of the job.  [default: the dataset's]"),
    click.option(
        "--priority",
        type=click.IntRange(-_PRIORITY, _PRIORITY),
        default=0,
        show_default=True,
        help="Jobs of a higher priority go first.",
    ),
    click.option(
        "--format",
        metavar="csv|jsonl|parquet|openai|txt",
        help="Format of the dataset.  [default: by its name or content]",
    ),
    click.option(
        "--delimiter",
        metavar="CHARACTER",
        help="What separates the cells of CSV; `tab` for a tab.  [default: by the header]",
    ),
    click.option(
        "--skip-bad-rows",
        is_flag=True,
        help="Leave out rows that cannot be used; write them with reasons to DATASET.rejected.csv.",
    ),
]


_OF_DATASETS = (
    "samples",
    "logprobs",
    "dedupe",
    "prompt_column",
    "template",
    "no_row_options",
    "trace",
    "name",
    "priority",
    "format",
    "delimiter",
    "skip_bad_rows",
)


def _applied(options: Sequence[Callable[[Any], Any]], command: Command) -> Command:
    """Return the command with the options, in their order."""
    for option in reversed(options):
        command = option(command)
    return command


def spec_options(command: Command) -> Command:
    """Give a command the options of a job."""
    return _applied(_SPEC, command)


def answer_options(command: Command) -> Command:
    """Give a command the options of a job that speak of answers, and not of a dataset or of a job's place."""
    command = spec_options(command)
    given: list[click.Parameter] = vars(command)["__click_params__"]  # where they wait for the command to be made
    given[:] = [option for option in given if option.name not in _OF_DATASETS]
    return command


def with_defaults(full: click.Command, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a command that has some of another's, the rest as by the other's defaults."""
    return {**parsed(full, ["rows"]), **options}


def parsed(command: click.Command, words: list[str]) -> dict[str, Any]:
    """Return the values of a command's options and arguments, without running it.

    click keeps a command's help option as the first context has it, so this one has it as the command line does.

    Raises:
        click.UsageError: the words are none that the command takes.
    """
    return command.make_context("endmark", words, help_option_names=["-h", "--help"]).params


def model_options(command: Command) -> Command:
    """Give a command the options that name what a worker holds."""
    return _applied(_MODEL, command)


def build_spec(options: dict[str, Any]) -> GenerationSpec:
    """Return the spec that the options stand for.

    Raises:
        SpecError: one of them is wrong, or two contradict each other.
    """
    model = model_name(options["model"])
    return consistent(
        GenerationSpec(
            model=model,
            adapter=adapter_folder(options["adapter"], model),
            strategies=chosen_strategies(options["strategies"], options["on_truncation"]),
            max_new_tokens=options["max_new_tokens"],
            sampling=chosen_sampling(model, options),
            system=options["system"],
            prompt_column=options["prompt_column"],
            template=options["template"],
            raw=options["raw"],
            trace=options["trace"],
            row_options=not options["no_row_options"],
            allow_control_tokens=options["allow_control_tokens"],
            thinking_marks=options["thinking_marks"],
            template_args=read_template_args(options["template_args"]),
            shape=chosen_shape(options),
            samples=options["samples"],
            logprobs=options["logprobs"],
            dedupe=options["dedupe"],
            token_healing=options["token_healing"],
        )
    )


def chosen_strategies(strategies: Sequence[str], on_truncation: str) -> tuple[Strategy, ...]:
    """Return the strategies with the one that `--on-truncation` asks for, unless it is there already."""
    named = {name for text in strategies if text.strip() for name, _ in parse_strategies(text)}
    wanted = on_truncation != "keep" and on_truncation not in named
    return build_strategies([*strategies, on_truncation] if wanted else strategies)


def model_name(text: str | None) -> str:
    """Return the model as jobs and workers call it: a folder by its whole path; the bundled one if none is given.

    Raises:
        SpecError: it looks like a folder and is none, or like nothing at all.
    """
    if text is None:
        note(f"no `--model` given: running the bundled demo model `{DEMO_MODEL}`")
        return DEMO_MODEL
    folder = None if text == DEMO_MODEL else _folder(text, "model")
    if folder is None and (doubt := check_model_name(text)) is not None:
        note(doubt)
    return folder or text


def adapter_folder(text: str | None, model: str) -> str | None:
    """Return an adapter's whole path.

    Raises:
        SpecError: there is no such folder, or it holds an adapter of another model.
        ModelError: the adapter cannot be run; see `check_adapter`.
    """
    if text is None:
        return None
    folder = _folder(text, "adapter")
    if folder is None:
        raise SpecError(f"there is no adapter folder `{text}`", hint=_WANTED["adapter"])
    if Path(folder).is_dir():
        check_adapter(Path(folder), model, local_folder(model))
    return folder


def _folder(text: str, what: str) -> str | None:
    """Return the whole path of a folder; None if the text may be something else."""
    path = Path(text).expanduser()
    wanted = _WANTED[what]
    if text and path.is_dir():
        if what == "model" and not (path / "config.json").is_file():
            adapter = (path / ADAPTER_CONFIG).is_file()
            fix = "it holds an adapter: give it as `--adapter`, and its base as `--model`" if adapter else wanted
            raise SpecError(f"`{text}` is no model folder: it holds no `config.json`", hint=fix)
        return str(path.resolve())
    if text and path.is_file():
        raise SpecError(f"`{text}` is a file, and no {what} folder", hint=wanted)
    if path.is_absolute() and not text.startswith("~"):
        return text  # it may be there for the workers, on other hosts
    if text.startswith((".", "~")) or (text and path.exists()):
        raise SpecError(f"there is no {what} folder `{text}`", hint=wanted)
    return None
