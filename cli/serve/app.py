"""The routes of the service, in the shapes that the `openai` package reads."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import IO, Any

from anyio import open_file
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from endmark.cli.serve.asked import file_name, listed, read_json, wanted_batch, wanted_page
from endmark.cli.serve.batches import Batches
from endmark.cli.serve.guard import OPEN
from endmark.cli.serve.refusals import Refused
from endmark.cli.serve.shelf import BatchRecord, FileRecord, Shelf
from endmark.cli.terminal import note
from endmark.jobs.errors import EndmarkError

_CHUNK = 2**20


class Routes:
    """The handlers, over one shelf and its batches."""

    def __init__(self, shelf: Shelf, batches: Batches, model: str) -> None:
        self._shelf = shelf
        self._batches = batches
        self._model = {"id": model, "object": "model", "created": 0, "owned_by": "endmark"}

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route(OPEN, lambda _: _json({"status": "ok"})),
            Route("/v1/models", self.models),
            Route("/v1/models/{model:path}", self.model),
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.files),
            Route("/v1/files/{id}", self.file),
            Route("/v1/files/{id}", self.delete_file, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self.content),
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.batches),
            Route("/v1/batches/{id}", self.batch),
            Route("/v1/batches/{id}/cancel", self.cancel, methods=["POST"]),
        ]
        made = Starlette(routes=routes, exception_handlers=_HANDLERS)
        made.router.redirect_slashes = False  # it would repeat the `Host` of the request
        return made

    def models(self, request: Request) -> Response:
        """List the model that is served."""
        del request
        return _json({"object": "list", "data": [self._model]})

    def model(self, request: Request) -> Response:
        """Describe a model."""
        if request.path_params["model"] != self._model["id"]:
            raise _missing("model", request.path_params["model"])
        return _json(self._model)

    async def upload(self, request: Request) -> Response:
        """Take in a file of requests."""
        async with request.form(max_files=1, max_fields=8) as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise Refused(400, "`file` is missing", "missing_file")
            if purpose != "batch":
                raise Refused(400, "`purpose` must be `batch`", "invalid_purpose")
            file_id, path = self._shelf.new_file()
            try:
                async with await open_file(path, "wb") as target:
                    while chunk := await file.read(_CHUNK):
                        await target.write(chunk)
                record = await run_in_threadpool(self._shelf.keep_file, file_id, file_name(file.filename), "batch")
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return _json(_described(record))

    def files(self, request: Request) -> Response:
        """List the files."""
        purpose = request.query_params.get("purpose")
        found = [item for item in self._shelf.files() if purpose in (None, item.purpose)]
        return _json(_page(request, [_described(item) for item in found], 10_000, 10_000))

    def file(self, request: Request) -> Response:
        """Describe a file."""
        return _json(_described(self._file(request.path_params["id"])))

    def delete_file(self, request: Request) -> Response:
        """Delete a file."""
        file_id = self._file(request.path_params["id"]).id
        if any(item.validating and item.input_file_id == file_id for item in self._shelf.batches()):
            raise Refused(409, "a batch is being made of the file", "file_in_use")
        self._shelf.remove_file(file_id)
        return _json({"id": file_id, "object": "file", "deleted": True})

    def content(self, request: Request) -> Response:
        """Send a file's content."""
        record = self._file(request.path_params["id"])
        try:
            content = self._shelf.content(record.id).open("rb")
        except OSError as error:
            raise _missing("file", record.id) from error
        headers = {"content-length": str(os.fstat(content.fileno()).st_size)}
        return StreamingResponse(_chunks(content), media_type="application/jsonl", headers=headers)

    async def create(self, request: Request) -> Response:
        """Make a batch of an uploaded file."""
        wanted = wanted_batch(read_json(await request.body()))
        self._file(wanted["input_file_id"])
        return _json(await run_in_threadpool(self._batches.create, **wanted))

    def batches(self, request: Request) -> Response:
        """List the batches, the newest first."""
        found = self._shelf.batches()
        page = _page(request, [{"id": item.id} for item in found], 20, 100)
        shown = {item["id"] for item in page["data"]}
        page["data"] = [self._batches.describe(item) for item in found if item.id in shown]
        return _json(page)

    def batch(self, request: Request) -> Response:
        """Describe a batch."""
        return _json(self._batches.describe(self._batch(request)))

    def cancel(self, request: Request) -> Response:
        """Cancel a batch."""
        batch = self._batch(request)
        status = self._batches.describe(batch)["status"]
        if status not in ("validating", "in_progress"):
            raise Refused(400, f"the batch is {status} and cannot be cancelled", "invalid_state")
        return _json(self._batches.cancel(batch))

    def _file(self, file_id: str) -> FileRecord:
        """Return a file's record, or refuse."""
        record = self._shelf.file(file_id)
        if record is None:
            raise _missing("file", file_id)
        return record

    def _batch(self, request: Request) -> BatchRecord:
        """Return the batch that a request names, or refuse."""
        batch = self._shelf.batch(request.path_params["id"])
        if batch is None:
            raise _missing("batch", request.path_params["id"])
        return batch


def _described(record: FileRecord) -> dict[str, Any]:
    """Return a file as the API describes it."""
    return {**asdict(record), "object": "file", "status": "processed"}


def _page(request: Request, items: list[dict[str, Any]], limit: int, most: int) -> dict[str, Any]:
    """Return the part of a list that a request asks for."""
    ids = [item["id"] for item in items]
    page = wanted_page(request.query_params, ids.__contains__, limit=limit, most=most)
    begin = ids.index(page.after) + 1 if page.after else 0
    part = items[begin : begin + page.limit]
    return listed(part, more=begin + len(part) < len(items))


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    """Return what is in a file, and close it."""
    with content:
        while chunk := content.read(_CHUNK):
            yield chunk


def _missing(what: str, name: str) -> Refused:
    """Return the refusal for something that is not there."""
    return Refused(404, f"there is no {what} `{name}`", f"{what}_not_found")


def _json(values: Mapping[str, Any]) -> Response:
    """Return an answer; its JSON is ASCII, so that no text can break it."""
    return Response(json.dumps(values), media_type="application/json")


def _routed(_: Request, error: Exception) -> Response:
    """Say as the API does that there is no such route."""
    assert isinstance(error, HTTPException)
    return Refused(error.status_code, error.detail, "invalid_request", error.headers).response()


def _refused(_: Request, error: Exception) -> Response:
    """Say why a request is refused."""
    assert isinstance(error, Refused)
    return error.response()


def _away(_: Request, error: Exception) -> Response:
    """Say that something of the service's own fails; what it is, its operator is told."""
    note(f"a request could not be answered: {error}")
    return Refused(503, "the service cannot do this at the moment; try again later", "unavailable").response()


def _broken(_: Request, error: Exception) -> Response:
    """Say that the service has failed; how, uvicorn writes for its operator."""
    del error
    return Refused(500, "the service has failed on this request", "internal_error").response()


_HANDLERS = {
    Refused: _refused,
    HTTPException: _routed,
    EndmarkError: _away,
    OSError: _away,
    Exception: _broken,
}
