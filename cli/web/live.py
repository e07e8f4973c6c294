"""What changes on a page while it is looked at: its parts as server-sent events, and rows that a list lacks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from endmark.cli.web.rendering import HEADERS
from endmark.db.browsing import WAITING, Wanted, count_kind
from endmark.db.connection import Store

_LOOK = 1.0  # seconds between two looks at what is shown live
_LOOKS = 600  # after which the browser asks anew


def stream(parts: Callable[[], tuple[Mapping[str, str], bool]], ending: Callable[[], bool]) -> Response:
    """Return a stream of server-sent events: each part of a page whenever it has changed.

    Args:
        parts: returns the parts as HTML by the names of their events, and whether they are the last.
        ending: whether the service is about to end.
    """

    async def events() -> AsyncIterator[str]:
        shown: Mapping[str, str] = {}
        for _ in range(_LOOKS):
            found, last = await run_in_threadpool(parts)
            for name, text in found.items():
                if text != shown.get(name):
                    lines = "".join(f"data: {line}\n" for line in text.splitlines())
                    yield f"event: {name}\n{lines}\n"
            shown = found
            if last:
                yield "event: done\ndata:\n\n"
                return
            if ending():
                return
            await asyncio.sleep(_LOOK)

    return StreamingResponse(events(), headers=HEADERS, media_type="text/event-stream")


def fills_in_place(wanted: Wanted) -> bool:
    """Return whether a list keeps its rows while the job goes on: their answers come where they stand."""
    return not (wanted.kind or wanted.words or wanted.order)


def comers(store: Store, job_id: str, wanted: Wanted) -> int:
    """Return how many rows with a result may belong into a list; where rows leave it or stay, none ever do.

    Raises:
        StoreError: the database cannot be used.
    """
    return 0 if fills_in_place(wanted) or wanted.kind == WAITING else count_kind(store, job_id, wanted.kind)
