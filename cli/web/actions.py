"""What can be done on the pages: pause, resume, cancel, retry and delete a job, and download its results."""

import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from endmark.cli.again import Again, ask_again
from endmark.cli.http.refusals import Refused
from endmark.cli.web.forms import proved_form, text_of
from endmark.cli.web.pages import Pages, page, visitor_of
from endmark.cli.web.rendering import EXPORTS, HEADERS
from endmark.cli.web.sessions import Sessions
from endmark.cli.web.views import JobView
from endmark.db.connection import Store
from endmark.db.deletion import check_deletable
from endmark.db.export import FORMATS, export_job
from endmark.db.jobs import Job, cancel_job, delete_job, pause_job, resume_job
from endmark.db.progress import job_status
from endmark.db.sizes import job_size
from endmark.jobs.errors import JobStateError, MissingDependency, UsageError

Wake = Callable[[str, str | None], None]  # wakes the workers of a model with an adapter


@dataclass(frozen=True, slots=True)
class _Act:
    """Something that is done to a job by a form, and where its visitor is led then."""

    done: Callable[[Job, FormData], None]
    asked: str | None = None  # the page that asks whether to
    leads_to_jobs: bool = False


class Actions:
    """The handlers, over one ledger. All but the downloads are an operator's.

    Args:
        pages: the pages beside them.
        store: the ledger.
        sessions: who is signed in.
        wake: told of the model of a job that has something to do again.
    """

    def __init__(self, pages: Pages, store: Store, sessions: Sessions, wake: Wake) -> None:
        self._pages = pages
        self._store = store
        self._sessions = sessions
        self._wake = wake
        self._acts = {
            "pause": _Act(lambda job, _: pause_job(store, job.id)),
            "resume": _Act(self._resume),
            "cancel": _Act(lambda job, _: cancel_job(store, job.id), "cancel.html"),
            "retry": _Act(self._retry, "retry.html"),
            "delete": _Act(lambda job, _: delete_job(store, job.id), "delete.html", leads_to_jobs=True),
        }

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        made: list[BaseRoute] = [Route("/jobs/{job}/export", self.export)]
        for name, act in self._acts.items():
            if act.asked is not None:
                made.append(Route(f"/jobs/{{job}}/{name}", self._asking(name, act.asked)))
            made.append(Route(f"/jobs/{{job}}/{name}", self._doing(act), methods=["POST"]))
        return made

    def _asking(self, name: str, template: str) -> Callable[[Request], Response]:
        """Return the handler of the page that asks whether something is to be done."""

        def ask(request: Request) -> Response:
            check_operator(request)
            job = self._pages.job_of(request)
            status = job_status(self._store, job.id)
            if name == "delete":
                try:
                    check_deletable(self._store, job.id)
                except JobStateError as error:
                    raise Refused(409, str(error), "invalid_state") from error
            size = job_size(self._store, job.id, job.total)
            return page(request, template, job=JobView.of(status), spec=job.spec, size=size)

        return ask

    def _doing(self, act: _Act) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler that does something."""

        async def do(request: Request) -> Response:
            check_operator(request)
            job = await run_in_threadpool(self._pages.job_of, request)
            async with proved_form(request, self._sessions) as form:
                try:
                    await run_in_threadpool(act.done, job, form)
                except (JobStateError, UsageError) as error:
                    raise Refused(409, str(error), "invalid_state") from error
            return RedirectResponse("/" if act.leads_to_jobs else f"/jobs/{job.id}", 303, HEADERS)

        return do

    def _resume(self, job: Job, _: FormData) -> None:
        """Let a paused job go on."""
        resume_job(self._store, job.id)
        self._wake(*job.spec.queue)

    def _retry(self, job: Job, form: FormData) -> None:
        """Ask rows again."""
        strategies, budget = text_of(form, "strategies"), text_of(form, "budget")
        failed, truncated = (text_of(form, name) == "on" for name in ("failed", "truncated"))
        if not failed and not truncated:
            raise UsageError("choose which rows are to be asked again")
        wanted = Again(failed, truncated, [strategies] if strategies else (), whole_number(budget, "the budget"))
        if not ask_again(self._store, job, wanted):
            raise UsageError("the job has no such rows")
        self._wake(*wanted.spec_for(job).queue)

    def export(self, request: Request) -> Response:
        """Send a job's rows with their results as a file."""
        job = self._pages.job_of(request)
        name = request.query_params.get("format", EXPORTS[0])
        if name not in EXPORTS:
            raise Refused(400, f"the format is none of {', '.join(EXPORTS)}", "invalid_format")
        folder = tempfile.TemporaryDirectory(prefix="endmark-export-")
        target = Path(folder.name) / f"{job.id}{FORMATS[name].suffixes[0]}"
        try:
            FORMATS[name].check()
            export_job(self._store, job.id, target, format=name, excel_safe=name == "csv")
        except MissingDependency as error:
            folder.cleanup()
            raise Refused(501, f"the service cannot write {name}: {error}", "unavailable") from error
        except BaseException:
            folder.cleanup()
            raise
        media = "application/octet-stream"  # never shown, however it begins
        return FileResponse(
            target,
            media_type=media,
            filename=target.name,
            headers=HEADERS,
            background=BackgroundTask(folder.cleanup),
        )


def check_operator(request: Request) -> None:
    """Refuse who is no operator.

    Raises:
        Refused: its visitor is none.
    """
    if not visitor_of(request).caller.operator:
        raise Refused(403, "this is for operators", "forbidden")


def whole_number(text: str, what: str) -> int | None:
    """Return the number in a field of a form; None where it is empty.

    Raises:
        UsageError: it holds something else.
    """
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"{what} is no number")
    return int(text)
