"""Forms that the pages send: each holds a proof that it is one of its visitor's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import FormData
from starlette.requests import Request

from endmark.cli.http.refusals import Refused
from endmark.cli.web.door import VISITOR
from endmark.cli.web.sessions import Sessions


@asynccontextmanager
async def proved_form(request: Request, sessions: Sessions) -> AsyncIterator[FormData]:
    """Give a form that one of the visitor's own pages has sent; its file is gone afterwards.

    Raises:
        Refused: it is none, or cannot be read.
    """
    try:
        form = await request.form(max_files=1, max_fields=32)
    except (ValueError, LookupError) as error:  # by a charset that cannot decode
        raise Refused(400, "the form cannot be read", "invalid_form") from error
    try:
        if not sessions.proves(request.scope[VISITOR].key, text_of(form, "proof")):
            raise Refused(403, "the page is too old; go back, reload it and try again", "forbidden")
        yield form
    finally:
        await form.close()


def text_of(form: FormData, name: str) -> str:
    """Return a text of a form without the spaces around it; empty where there is none."""
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""
