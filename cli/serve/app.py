"""The routes of the service, in the shapes that the `openai` package reads."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import IO, Any, BinaryIO

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from endmark.cli.http.guard import CALLER, OPEN
from endmark.cli.http.naming import file_name
from endmark.cli.http.refusals import Refused
from endmark.cli.serve.asked import listed, read_json, upload_lifetime, wanted_batch, wanted_page
from endmark.cli.serve.batches import Batches
from endmark.cli.serve.keeper import remove_file
from endmark.cli.serve.shelf import Shelf
from endmark.cli.terminal import note
from endmark.db.served import Caller, Records
from endmark.db.served_files import NewFile, ServedFile, add_file, find_file, list_files
from endmark.jobs.errors import EndmarkError

_CHUNK = 2**20
_FILES, _BATCHES = {"limit": 10_000, "most": 10_000}, {"limit": 20, "most": 100}  # items of a page


class Routes:
    """The handlers, over one shelf, its records and its batches."""

    def __init__(self, records: Records, shelf: Shelf, batches: Batches, model: str) -> None:
        self._records = records
        self._shelf = shelf
        self._batches = batches
        self._model = {"id": model, "object": "model", "created": 0, "owned_by": "endmark"}

    def app(self) -> Starlette:
        """Return the application; who asks is in the scope of each request."""
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
        try:
            form = await request.form(max_files=1, max_fields=8)
        except (ValueError, LookupError) as error:  # by a charset that cannot decode
            raise Refused(400, "the form cannot be read", "invalid_form") from error
        try:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise Refused(400, "`file` is missing", "missing_file")
            if purpose != "batch":
                raise Refused(400, "`purpose` must be `batch`", "invalid_purpose")
            wanted = (file.file, file_name(file.filename), upload_lifetime(form), _caller(request).owner)
            return _json(_described(await run_in_threadpool(self._take_in, *wanted)))
        finally:
            await form.close()

    def _take_in(self, source: BinaryIO, name: str, seconds: int | None, owner: str) -> ServedFile:
        """Keep an uploaded file."""
        file_id = self._shelf.begin()
        try:
            with self._shelf.write(file_id) as target:
                shutil.copyfileobj(source, target, _CHUNK)
                size = target.tell()
        except BaseException:
            self._shelf.remove(file_id)
            raise
        file = add_file(self._records, NewFile(file_id, owner, name, "batch", size, seconds))
        self._shelf.keep(file_id)
        return file

    def files(self, request: Request) -> Response:
        """List the files."""
        caller = _caller(request)
        page = wanted_page(request.query_params, lambda file_id: self._known(file_id, caller), **_FILES)
        found = list_files(
            self._records,
            caller,
            after=page.after,
            limit=page.limit + 1,
            purpose=request.query_params.get("purpose"),
            ascending=page.ascending,
        )
        items = [_described(item) for item in found[: page.limit]]
        return _json(listed(items, more=len(found) > page.limit))

    def _known(self, file_id: str, caller: Caller) -> bool:
        """Whether a caller sees a file."""
        return find_file(self._records, file_id, caller) is not None

    def file(self, request: Request) -> Response:
        """Describe a file."""
        return _json(_described(self._file(request)))

    def delete_file(self, request: Request) -> Response:
        """Delete a file."""
        file_id = self._file(request).id
        if not remove_file(self._records, self._shelf, file_id):
            raise Refused(409, "a batch is being made of the file", "file_in_use")
        return _json({"id": file_id, "object": "file", "deleted": True})

    def content(self, request: Request) -> Response:
        """Send a file's content."""
        record = self._file(request)
        try:
            content = self._shelf.content(record.id).open("rb")
        except FileNotFoundError as error:
            raise _missing("file", record.id) from error
        headers = {"content-length": str(os.fstat(content.fileno()).st_size)}
        return StreamingResponse(_chunks(content), media_type="application/jsonl", headers=headers)

    async def create(self, request: Request) -> Response:
        """Make a batch of an uploaded file."""
        wanted = wanted_batch(read_json(await request.body()))
        batch = await run_in_threadpool(self._batches.create, _caller(request), wanted)
        if batch is None:
            raise _missing("file", wanted.input_file_id)
        return _json(batch)

    def batches(self, request: Request) -> Response:
        """List the batches, the newest first."""
        caller = _caller(request)
        page = wanted_page(
            request.query_params, lambda batch_id: self._batches.find(batch_id, caller) is not None, **_BATCHES
        )
        found = self._batches.list(caller, after=page.after, limit=page.limit + 1)
        return _json(listed(found[: page.limit], more=len(found) > page.limit))

    def batch(self, request: Request) -> Response:
        """Describe a batch."""
        return _json(self._batch(request))

    def cancel(self, request: Request) -> Response:
        """Cancel a batch."""
        batch = self._batch(request)
        if batch["status"] not in ("validating", "in_progress") or not self._batches.cancel(batch["id"]):
            status = self._batch(request)["status"]
            raise Refused(400, f"the batch is {status} and cannot be cancelled", "invalid_state")
        return _json(self._batch(request))

    def _file(self, request: Request) -> ServedFile:
        """Return the file that a request names, or refuse."""
        record = find_file(self._records, request.path_params["id"], _caller(request))
        if record is None:
            raise _missing("file", request.path_params["id"])
        return record

    def _batch(self, request: Request) -> dict[str, Any]:
        """Return the batch that a request names, as the API describes it, or refuse."""
        batch = self._batches.find(request.path_params["id"], _caller(request))
        if batch is None:
            raise _missing("batch", request.path_params["id"])
        return batch


def _caller(request: Request) -> Caller:
    """Return who asks."""
    caller = request.scope[CALLER]
    assert isinstance(caller, Caller)
    return caller


def _described(file: ServedFile) -> dict[str, Any]:
    """Return a file as the API describes it."""
    values = {**asdict(file), "object": "file", "status": "processed"}
    del values["owner"]
    return values


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


def _routed(request: Request, error: Exception) -> Response:
    """Say as the API does that there is no such route, and which there are."""
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = (
            f"`{request.method} {request.url.path}` is not served: upload requests to `/v1/files`, and have them "
        )
        detail += "run by `/v1/batches`"
    return Refused(error.status_code, detail, "invalid_request", error.headers).response()


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
