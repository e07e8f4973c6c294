"""Asking an ASGI application without a server, one part of the body after the other."""

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import unquote

SILENCE = object()  # among the parts of a body: nothing comes any more
HANGS_UP = object()  # the client goes


@dataclass
class Answer:
    """What came back; no status where nobody was answered."""

    status: int | None
    headers: dict[str, str]
    body: bytes
    taken: int  # parts of the body that were asked for

    @property
    def error(self):
        return self.json["error"]

    @property
    def json(self):
        return json.loads(self.body)


def ask(app, method="GET", path="/", headers=(), parts=(b"",)):
    """Send one request; without a `content-length` its body is chunked if it has one."""
    given = {"host": "localhost:8000", **dict(headers)}
    if parts != (b"",) and "content-length" not in given:
        given["transfer-encoding"] = "chunked"
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "server": ("localhost", 8000),
        "client": ("localhost", 1),
        "http_version": "1.1",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
    }
    return asyncio.run(_asked(app, scope, list(parts)))


async def _asked(app, scope, parts):
    sent = []
    taken = 0

    async def receive():
        nonlocal taken
        taken += 1
        part = parts.pop(0) if parts else SILENCE
        if part is HANGS_UP:
            return {"type": "http.disconnect"}
        if part is SILENCE:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return Answer(None, {}, b"", taken)
    assert sent[0]["type"] == "http.response.start"
    assert [bool(message.get("more_body")) for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]), taken)
