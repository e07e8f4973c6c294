"""`endmark serve`: its options, and who may listen where."""

import ipaddress
import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import click

from endmark.cli.advice import worker_hint
from endmark.cli.notifying import notify
from endmark.cli.options import adapter_folder, model_name, model_options, strategy_names
from endmark.cli.session import opened
from endmark.cli.terminal import hint, note
from endmark.cli.waiting import ended_like_by_ctrl_c
from endmark.db.progress import workers_for
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.errors import MissingDependency, UsageError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies

TOKENS = "ENDMARK_TOKENS"  # tokens joined by commas


@click.command(
    short_help="Serve the OpenAI Batch API over the same jobs.",
    epilog="""\b
Examples:
  endmark serve
  ENDMARK_TOKENS=$(openssl rand -hex 24) endmark serve --host 0.0.0.0 --model meta-llama/Llama-2-7b-chat-hf""",
)
@model_options
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME[:key=value,…]",
    shell_complete=strategy_names,
    help="As of `endmark run`.",
)
@click.option("--max-new-tokens", type=int, default=256, show_default=True, help="Where a request gives no limit.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Where to listen.")
@click.option("--token-file", metavar="FILE", help="Bearer tokens, one a line; also ENDMARK_TOKENS, by commas.")
@click.option("--max-file-mb", type=click.IntRange(1), default=200, show_default=True, help="Of an uploaded file.")
@click.option("--max-requests", type=click.IntRange(1), default=50_000, show_default=True, help="Of one batch.")
def serve(
    model: str | None,
    adapter: str | None,
    strategies: tuple[str, ...],
    max_new_tokens: int,
    host: str,
    port: int,
    token_file: str | None,
    max_file_mb: int,
    max_requests: int,
) -> None:
    """Answer /v1/files, /v1/batches and /v1/models as the OpenAI API does, until SIGTERM or Ctrl-C.

    A batch is a job: `endmark status` shows it, `endmark worker` runs it. Tokens are required unless the service
    listens on loopback. Needs the extra `serve`.
    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None or find_spec("python_multipart") is None:
        raise MissingDependency("`endmark serve`", "serve")
    tokens = read_tokens(token_file)
    if not tokens and not is_loopback(host):
        raise UsageError(
            f"`--host {host}` can be reached from elsewhere, and there are no tokens",
            hint=f"set {TOKENS}, or `--token-file`, or listen on 127.0.0.1",
        )
    name = model_name(model)
    spec = GenerationSpec(
        model=name,
        adapter=adapter_folder(adapter, name),
        strategies=build_strategies(strategies),
        max_new_tokens=max_new_tokens,
    )
    _listen(spec, host, port, tokens, max_file_mb * 2**20, max_requests)


def _listen(
    spec: GenerationSpec, host: str, port: int, tokens: list[str], file_most: int, max_requests: int
) -> None:
    """Answer until the process is told to end."""
    import uvicorn

    from endmark.cli.serve.app import Routes
    from endmark.cli.serve.batches import Batches, Terms
    from endmark.cli.serve.guard import Guard
    from endmark.cli.serve.shelf import Shelf

    os.umask(0o077)  # all that it writes is its own: uploads and results
    with opened() as (settings, store), ensure_broker(settings) as broker:
        shelf = Shelf(settings.home / "serve")
        batches = Batches(
            store, shelf, Terms(spec, max_requests), lambda spec, keys: notify(store, broker.url, spec, keys)
        )
        app = Guard(Routes(shelf, batches, spec.model).app(), tokens, file_most)
        note(f"serving `{spec.model}` on http://{host}:{port}/v1{'' if tokens else ', without tokens'}")
        if not workers_for(store, spec.model, spec.adapter):
            hint(worker_hint(spec.model, spec.adapter))
        try:
            # uvicorn ends in order at a signal, and then raises it again.
            with ended_like_by_ctrl_c(), suppress(KeyboardInterrupt):
                uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)
        finally:
            batches.close()
            shelf.close()


def read_tokens(path: str | None) -> list[str]:
    """Return the tokens that admit.

    Raises:
        UsageError: the file cannot be read, or a token is too short to be one.
    """
    texts = os.environ.get(TOKENS, "").split(",")
    if path is not None:
        try:
            texts += Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the tokens in `{path}`: {error}") from error
    tokens = [text.strip() for text in texts if text.strip()]
    if any(len(token) < 16 for token in tokens):
        raise UsageError("a token has fewer than 16 characters", hint="`openssl rand -hex 24` makes one")
    if path is not None and not tokens:
        raise UsageError(f"there is no token in `{path}`")
    return tokens


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a service that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
