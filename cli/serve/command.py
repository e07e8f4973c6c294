"""`endmark serve`: its options, and who may listen where."""

import os
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from typing import Any, NamedTuple

import click

from endmark.cli.advice import worker_hint
from endmark.cli.engines import engine_options, take_engine
from endmark.cli.http.access import OPERATOR_TOKENS, TOKENS, Access, is_loopback, read_access
from endmark.cli.notifying import wake_workers
from endmark.cli.options import adapter_folder, model_name, model_options, strategy_names
from endmark.cli.sampling import chosen_sampling
from endmark.cli.session import opened
from endmark.cli.terminal import hint, note
from endmark.cli.waiting import ended_like_by_ctrl_c
from endmark.db.progress import workers_for
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.conflicts import consistent
from endmark.jobs.engines import EngineChoice
from endmark.jobs.errors import MissingDependency, UsageError
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies


@click.command(
    short_help="Serve the OpenAI Batch API over the same jobs.",
    epilog="""\b
Examples:
  endmark serve
  ENDMARK_TOKENS=$(openssl rand -hex 24) endmark serve --host 0.0.0.0 --model meta-llama/Llama-2-7b-chat-hf""",
)
@model_options
@engine_options
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
@click.option(
    "--token-file",
    metavar="FILE",
    help=f"Bearer tokens, one a line, as TOKEN or NAME:TOKEN; also {TOKENS}, by commas. Each owner sees its own.",
)
@click.option(
    "--operator-token-file",
    metavar="FILE",
    help=f"Tokens that see the files and batches of all; also {OPERATOR_TOKENS}.",
)
@click.option("--max-file-mb", type=click.IntRange(1), default=200, show_default=True, help="Of an uploaded file.")
@click.option("--max-requests", type=click.IntRange(1), default=50_000, show_default=True, help="Of one batch.")
@click.option(
    "--max-connections",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="At once from one address, but for loopback: more for a proxy on another host.",
)
def serve(
    model: str | None,
    adapter: str | None,
    strategies: tuple[str, ...],
    max_new_tokens: int,
    host: str,
    port: int,
    token_file: str | None,
    operator_token_file: str | None,
    max_file_mb: int,
    max_requests: int,
    max_connections: int,
    **engine: Any,  # noqa: ANN401
) -> None:
    """Answer /v1/files, /v1/batches and /v1/models as the OpenAI API does, until SIGTERM or Ctrl-C.

    A batch is a job: `endmark status` and the page at `/` show it, `endmark worker` runs it. Tokens are required
    unless the service listens on loopback. Needs the extra `serve`.
    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None or find_spec("python_multipart") is None:
        raise MissingDependency("`endmark serve`", "serve")
    access = read_access(token_file, operator_token_file)
    if access.open and not is_loopback(host):
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
        sampling=chosen_sampling(name, {}),
    )
    most = _Most(max_file_mb * 2**20, max_requests, max_connections)
    _listen(consistent(spec), take_engine(engine, here=False), host, port, access, most)


class _Most(NamedTuple):
    """What one client may take."""

    file: int  # bytes
    requests: int  # of a batch
    connections: int


def _listen(spec: GenerationSpec, engine: EngineChoice, host: str, port: int, access: Access, most: _Most) -> None:
    """Answer until the process is told to end."""
    from endmark.cli.http.guard import Guard, Limits
    from endmark.cli.http.listening import listen, serve_on
    from endmark.cli.serve.app import Routes
    from endmark.cli.serve.batches import Batches
    from endmark.cli.serve.intake import Terms
    from endmark.cli.serve.keeper import Keeper
    from endmark.cli.serve.opening import open_shelf
    from endmark.cli.web.actions import Actions
    from endmark.cli.web.door import Door, beside
    from endmark.cli.web.pages import Pages
    from endmark.cli.web.sessions import Sessions
    from endmark.cli.web.signing import Signing
    from endmark.cli.web.uploading import Uploads

    os.umask(0o077)  # all that it writes is its own: uploads and results
    with ExitStack() as stack:
        settings, store = stack.enter_context(opened())
        shelf, records = stack.enter_context(open_shelf(store, settings.home / "serve", access))
        sockets = stack.enter_context(listen(host, port))
        broker = stack.enter_context(ensure_broker(settings))
        terms = Terms(spec, most.requests)

        def wake(model: str, adapter: str | None) -> None:
            wake_workers(store, broker.url, model, adapter)

        keeper = Keeper(records, shelf, terms, wake)
        stack.callback(keeper.close)
        routes = Routes(records, shelf, Batches(records, keeper, spec.model), spec.model)
        limits, sessions = Limits(most.file), Sessions()
        pages = Pages(store, records.jobs_of, ending=lambda: server.should_exit)
        acting = [
            *Uploads(store, sessions, wake, spec.model).routes(),
            *Actions(pages, store, sessions, wake).routes(),
        ]
        signing = [] if access.open else Signing(access, sessions).routes()
        door = Door(pages.app(*signing, *acting), access, limits, sessions)
        server = serve_on(beside(Guard(routes.app(), access, limits), door), most.connections)
        place = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        free = ", without tokens" if access.open else ""
        note(f"serving `{spec.model}` on {place}/v1{free}; its page is {place}/")
        if not workers_for(store, spec.model, spec.adapter):
            hint(worker_hint(spec.model, spec.adapter, engine.words()))
        # uvicorn ends in order at a signal, and then raises it again.
        with ended_like_by_ctrl_c(), suppress(KeyboardInterrupt):
            server.run(sockets)
