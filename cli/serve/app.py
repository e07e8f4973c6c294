"""The routes of the service, in the shapes that the `openai` package reads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from anyio import open_file
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from endmark.cli.serve.batches import Batches
from endmark.cli.serve.guard import OPEN, Refused
from endmark.cli.serve.shelf import BatchRecord, FileRecord, Shelf
from endmark.jobs.datasets.openai import CHAT, COMPLETION
from endmark.jobs.errors import EndmarkError

_CHUNK = 2**20
_METADATA_MOST = 16  # pairs


class Routes:
    """The handlers, over one shelf and its batches."""

    def __init__(self, shelf: Shelf, batches: Batches, model: str) -> None:
        self._shelf = shelf
        self._batches = batches
        self._model = {"id": model, "object": "model", "created": 0, "owned_by": "endmark"}

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route(OPEN, lambda _: JSONResponse({"status": "ok"})),
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
        return Starlette(routes=routes, exception_handlers=_HANDLERS)

    def models(self, request: Request) -> Response:
        """List the model that is served."""
        del request
        return JSONResponse({"object": "list", "data": [self._model]})

    def model(self, request: Request) -> Response:
        """Describe a model."""
        if request.path_params["model"] != self._model["id"]:
            raise _missing("model", request.path_params["model"])
        return JSONResponse(self._model)

    async def upload(self, request: Request) -> Response:
        """Take in a file of requests."""
        async with request.form(max_files=1, max_fields=8) as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise Refused(400, "`file` is missing", "missing_file")
            if purpose != "batch":
                raise Refused(400, "`purpose` must be `batch`", "invalid_purpose")
            file_id, path = self._shelf.new_file()
            async with await open_file(path, "wb") as target:
                while chunk := await file.read(_CHUNK):
                    await target.write(chunk)
            record = await run_in_threadpool(
                self._shelf.keep_file, file_id, file.filename or "upload.jsonl", "batch"
            )
        return JSONResponse(_described(record))

    def files(self, request: Request) -> Response:
        """List the files."""
        purpose = request.query_params.get("purpose")
        found = [item for item in self._shelf.files() if purpose in (None, item.purpose)]
        return JSONResponse(_page(request, [_described(item) for item in found]))

    def file(self, request: Request) -> Response:
        """Describe a file."""
        return JSONResponse(_described(self._file(request.path_params["id"])))

    def delete_file(self, request: Request) -> Response:
        """Delete a file."""
        file_id = self._file(request.path_params["id"]).id
        if any(item.validating and item.input_file_id == file_id for item in self._shelf.batches()):
            raise Refused(409, "a batch is being made of the file", "file_in_use")
        self._shelf.remove_file(file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    def content(self, request: Request) -> Response:
        """Send a file's content."""
        record = self._file(request.path_params["id"])
        return FileResponse(self._shelf.content(record.id), media_type="application/jsonl")

    async def create(self, request: Request) -> Response:
        """Make a batch of an uploaded file."""
        try:
            values = json.loads(await request.body())
        except ValueError as error:
            raise Refused(400, f"the body is not JSON: {error}", "invalid_json") from error
        wanted = _wanted(values)
        self._file(wanted["input_file_id"])
        return JSONResponse(await run_in_threadpool(self._batches.create, **wanted))

    def batches(self, request: Request) -> Response:
        """List the batches, the newest first."""
        found = self._shelf.batches()
        page = _page(request, [{"id": item.id} for item in found])
        shown = {item["id"] for item in page["data"]}
        page["data"] = [self._batches.describe(item) for item in found if item.id in shown]
        return JSONResponse(page)

    def batch(self, request: Request) -> Response:
        """Describe a batch."""
        return JSONResponse(self._batches.describe(self._batch(request)))

    def cancel(self, request: Request) -> Response:
        """Cancel a batch."""
        batch = self._batch(request)
        status = self._batches.describe(batch)["status"]
        if status not in ("validating", "in_progress"):
            raise Refused(400, f"the batch is {status} and cannot be cancelled", "invalid_state")
        return JSONResponse(self._batches.cancel(batch))

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


def _wanted(values: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    """Return what a batch is to be, checked."""
    if not isinstance(values, dict) or not isinstance(values.get("input_file_id"), str):
        raise Refused(400, "`input_file_id` is missing", "missing_input_file")
    if values.get("endpoint") not in (CHAT, COMPLETION):
        raise Refused(400, f"`endpoint` must be `{CHAT}` or `{COMPLETION}`", "invalid_endpoint")
    metadata = values.get("metadata")
    texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if metadata is not None and (not texts or len(metadata) > _METADATA_MOST):
        raise Refused(400, f"`metadata` must be at most {_METADATA_MOST} pairs of texts", "invalid_metadata")
    window = values.get("completion_window")
    if not isinstance(window, str):
        raise Refused(400, "`completion_window` is missing", "invalid_window")
    names = ("input_file_id", "endpoint", "metadata")
    return {**{name: values.get(name) for name in names}, "completion_window": window}


def _described(record: FileRecord) -> dict[str, Any]:
    """Return a file as the API describes it."""
    return {**asdict(record), "object": "file", "status": "processed"}


def _page(request: Request, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the part of a list that a request asks for."""
    after, limit = request.query_params.get("after"), request.query_params.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit) <= 10_000:
        raise Refused(400, "`limit` must be from 1 to 10,000", "invalid_limit")
    ids = [item["id"] for item in items]
    begin = ids.index(after) + 1 if after in ids else 0
    part = list(items[begin : begin + int(limit)])
    return {
        "object": "list",
        "data": part,
        "first_id": part[0]["id"] if part else None,
        "last_id": part[-1]["id"] if part else None,
        "has_more": begin + len(part) < len(items),
    }


def _missing(what: str, name: str) -> Refused:
    """Return the refusal for something that is not there."""
    return Refused(404, f"there is no {what} `{name}`", f"{what}_not_found")


def _answer(request: Request, error: Exception) -> Response:
    """Say what is wrong as the API does."""
    del request
    if isinstance(error, HTTPException):
        error = Refused(error.status_code, error.detail, "invalid_request")
    elif not isinstance(error, Refused):
        error = Refused(503, str(error), "unavailable")
    return Response(error.body(), error.status, media_type="application/json")


_HANDLERS = {Refused: _answer, HTTPException: _answer, EndmarkError: _answer}
