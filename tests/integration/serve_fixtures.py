"""A service of the Batch API over a real ledger, asked without a server."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, field

from endmark.cli.http.access import read_access
from endmark.cli.http.guard import Guard, Limits
from endmark.cli.serve.app import Routes
from endmark.cli.serve.batches import Batches
from endmark.cli.serve.intake import Terms
from endmark.cli.serve.keeper import Keeper
from endmark.cli.serve.opening import open_shelf
from endmark.jobs.spec import GenerationSpec
from tests.integration.service_fixtures import wait_until
from tests.unit.asgi import ask

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "cancelled", "expired")
ALICE, BOB, CHIEF = "alice-token-of-that-length", "bobby-token-of-that-length", "chief-token-of-that-length"
TOKENS = {"ENDMARK_TOKENS": f"alice:{ALICE},bob:{BOB}", "ENDMARK_OPERATOR_TOKENS": f"chief:{CHIEF}"}


def requests(count=3, model="m", **body):
    """A file of requests."""
    asked = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **body}
    lines = [{"custom_id": f"r{row}", "method": "POST", "url": CHAT, "body": asked} for row in range(count)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def form(content, filename=b"batch.jsonl", **fields):
    """The body of an upload with the boundary `b`."""
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value.encode())
        for name, value in {"purpose": "batch", **fields}.items()
    ]
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n' % filename
    return b"".join(parts) + head + content + b"\r\n--b--\r\n"


@dataclass
class Served:
    """A service that runs."""

    records: object
    shelf: object
    keeper: object
    app: object
    woken: list = field(default_factory=list)
    token: str | None = None

    def ask(self, method, path, body=b"", token=None, parts=(), **headers):
        """Send a request, whose body may go on in parts; return the answer."""
        token = token or self.token
        given = {"authorization": f"Bearer {token}"} if token else {}
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return ask(self.app, method, path, {**given, **headers}, [body, *parts])

    def get(self, path, token=None):
        """The JSON of a GET."""
        answer = self.ask("GET", path, token=token)
        assert answer.status == 200, answer.body
        return answer.json

    def upload(self, content=None, token=None, **fields):
        """Upload a file; return its id."""
        body = form(requests() if content is None else content, **fields)
        answer = self.ask("POST", "/v1/files", body, token, **{"content-type": "multipart/form-data; boundary=b"})
        assert answer.status == 200, answer.body
        return answer.json["id"]

    def create(self, file_id=None, token=None, **values):
        """Make a batch; return its id."""
        asked = {
            "input_file_id": file_id or self.upload(token=token),
            "endpoint": CHAT,
            "completion_window": "24h",
        }
        answer = self.ask("POST", "/v1/batches", {**asked, **values}, token)
        assert answer.status == 200, answer.body
        return answer.json["id"]

    def batch(self, batch_id, token=None):
        """A batch as the API describes it."""
        return self.get(f"/v1/batches/{batch_id}", token)

    def until(self, batch_id, *statuses, token=None):
        """Wait until a batch has one of these statuses; return it. One that has ended otherwise has failed to."""

        def reached():
            batch = self.batch(batch_id, token)
            assert batch["status"] in statuses or batch["status"] not in ENDED, batch
            return batch["status"] in statuses

        wait_until(reached)
        return self.batch(batch_id, token)

    def lines(self, file_id, token=None):
        """The lines of a file of results."""
        answer = self.ask("GET", f"/v1/files/{file_id}/content", token=token)
        assert answer.status == 200, answer.body
        return [json.loads(line) for line in answer.body.splitlines()]


@contextmanager
def serving(store, folder, *, environ=None, look=0.02, max_requests=100, file_most=2**20):
    """Run a service on a folder."""
    access = read_access(None, None, dict(environ or {}))
    woken = []
    with open_shelf(store, folder, access) as (shelf, records):
        terms = Terms(GenerationSpec(model="m"), max_requests)
        keeper = Keeper(records, shelf, terms, lambda *queue: woken.append(queue), look=look)
        try:
            routes = Routes(records, shelf, Batches(records, keeper, "m"), "m")
            yield Served(records, shelf, keeper, Guard(routes.app(), access, Limits(file_most)), woken)
        finally:
            keeper.close()
