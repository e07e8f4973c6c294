"""`endmark web`: the live page alone, for who sits at this machine."""

from contextlib import ExitStack, suppress
from importlib.util import find_spec

import click

from endmark.cli.notifying import wake_if_reachable
from endmark.cli.session import opened
from endmark.cli.terminal import note
from endmark.cli.waiting import ended_like_by_ctrl_c
from endmark.jobs.errors import MissingDependency

_HOST = "127.0.0.1"
_FILE_MOST = 2**20 * 200  # bytes of an uploaded file


@click.command(
    short_help="Show the jobs in a browser, on this machine alone.",
    epilog="\b\nExamples:\n  endmark web\n  endmark web --port 9000",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Where to listen.")
def web(port: int) -> None:
    """Show jobs, their rows and their workers on http://127.0.0.1:PORT, until SIGTERM or Ctrl-C.

    It listens on loopback alone and asks for no token: whoever can use this machine can read what the jobs hold.
    From another machine, `ssh -L 8080:127.0.0.1:8080 HOST` brings it near. Needs the extra `serve`.
    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None or find_spec("python_multipart") is None:
        raise MissingDependency("`endmark web`", "serve")
    from endmark.cli.http.access import OPEN_ACCESS
    from endmark.cli.http.guard import Limits
    from endmark.cli.http.listening import listen, serve_on
    from endmark.cli.web.actions import Actions
    from endmark.cli.web.door import Door
    from endmark.cli.web.pages import Pages
    from endmark.cli.web.sessions import Sessions
    from endmark.cli.web.uploading import Uploads

    with ExitStack() as stack:
        settings, store = stack.enter_context(opened())
        sockets = stack.enter_context(listen(_HOST, port))
        sessions = Sessions()
        pages = Pages(
            store, owned=lambda _: (), ending=lambda: server.should_exit
        )  # all sees who uses this machine

        def wake(model: str, adapter: str | None) -> None:
            wake_if_reachable(settings, store, model, adapter)

        routes = [*Uploads(store, sessions, wake).routes(), *Actions(pages, store, sessions, wake).routes()]
        server = serve_on(Door(pages.app(*routes), OPEN_ACCESS, Limits(_FILE_MOST), sessions))
        note(f"the jobs are on http://{_HOST}:{port}")
        # uvicorn ends in order at a signal, and then raises it again.
        with ended_like_by_ctrl_c(), suppress(KeyboardInterrupt):
            server.run(sockets)
