"""The pages, as routes: the list of jobs, a job with its rows, a row with its attempts, and what changes live."""

from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from endmark.cli.advice import spec_options_of
from endmark.cli.finishing import described
from endmark.cli.http.refusals import Refused
from endmark.cli.pages.gathering import build_report
from endmark.cli.pages.report import write_page
from endmark.cli.terminal import note
from endmark.cli.web.door import VISITOR, Visitor
from endmark.cli.web.listing import BEFORE, JOBS, WantedJobs, links_of, number, wanted_jobs, wanted_rows
from endmark.cli.web.live import comers, fills_in_place, stream
from endmark.cli.web.rendering import ASSETS, HEADERS, asset, rendered
from endmark.cli.web.views import (
    JobView,
    RowLine,
    attempt_view,
    end_lines,
    plan_of,
    row_line,
    shown_finetunings,
    turns_of,
)
from endmark.db.browsing import KINDS, Found, count_ends, find_rows
from endmark.db.connection import Store
from endmark.db.deliveries import deliveries_of
from endmark.db.finetunings import list_finetunings
from endmark.db.jobs import Job, load_job
from endmark.db.progress import job_status, listed_statuses
from endmark.db.row_history import row_history
from endmark.db.served import Caller
from endmark.db.sizes import job_size
from endmark.db.workers import list_workers
from endmark.jobs.errors import EndmarkError, JobNotFound
from endmark.jobs.strategies import write_strategies


class Pages:
    """The handlers, over one ledger.

    Args:
        store: the ledger.
        owned: returns the ids of the jobs that a caller sees who is no operator.
        ending: whether the service is about to end, which ends what is shown live.
    """

    def __init__(
        self, store: Store, owned: Callable[[Caller], Collection[str]], ending: Callable[[], bool]
    ) -> None:
        self._store = store
        self._owned = owned
        self._ending = ending

    def app(self, *others: BaseRoute) -> Starlette:
        """Return the application, with other routes beside these."""
        routes = [
            *others,
            Route("/", self.jobs),
            Route("/live", self.live_jobs),
            Route("/jobs/{job}", self.job),
            Route("/jobs/{job}/live", self.live_job),
            Route("/jobs/{job}/report", self.report),
            Route("/jobs/{job}/rows/{row:int}", self.row),
            Route("/static/{name}", self.static),
        ]
        made = Starlette(routes=routes, exception_handlers=_HANDLERS)
        made.router.redirect_slashes = False  # it would repeat the `Host` of the request
        return made

    def jobs(self, request: Request) -> Response:
        """Show the jobs, some at a time, and the workers."""
        wanted = wanted_jobs(request.query_params)
        return page(request, "jobs.html", **self._jobs(visitor_of(request), wanted))

    def live_jobs(self, request: Request) -> Response:
        """Send the list of jobs whenever it has changed."""
        visitor, wanted = visitor_of(request), wanted_jobs(request.query_params)

        def parts() -> tuple[Mapping[str, str], bool]:
            return {"message": rendered("jobs_live.html", **self._jobs(visitor, wanted), visitor=visitor)}, False

        return stream(parts, self._ending)

    def _jobs(self, visitor: Visitor, wanted: WantedJobs) -> dict[str, Any]:
        """Return what the list shows."""
        owned = None if visitor.caller.operator else self._owned(visitor.caller)
        found, total = listed_statuses(self._store, words=wanted.words, among=owned, first=wanted.first, most=JOBS)
        return {
            "jobs": [JobView.of(status) for status in found],
            "wanted": wanted,
            "total": total,
            "links": wanted.links(total),
            "workers": list_workers(self._store),
            "finetunings": shown_finetunings(list_finetunings(self._store)) if owned is None else [],
        }

    def job_of(self, request: Request) -> Job:
        """Return the job that a request names.

        Raises:
            JobNotFound: there is none that its visitor sees.
        """
        job_id, caller = request.path_params["job"], visitor_of(request).caller
        if not job_id.isalnum() or not (caller.operator or job_id in self._owned(caller)):
            raise JobNotFound(job_id)
        return load_job(self._store, job_id)

    def job(self, request: Request) -> Response:
        """Show a job: its progress, and some of its rows."""
        job = self.job_of(request)
        wanted = wanted_rows(request.query_params)
        before = comers(self._store, job.id, wanted)
        found = find_rows(self._store, job.id, job.total, wanted)
        return page(
            request,
            "job.html",
            **self._job(job.id),
            spec=job.spec,
            strategies=write_strategies(job.spec.strategies),
            options=spec_options_of(job.spec),
            size=job_size(self._store, job.id, job.total),
            deliveries=[described(item) for item in deliveries_of(self._store, job.id)],
            kinds=KINDS,
            wanted=wanted,
            rows=_lines(job, found),
            query=urlencode({**request.query_params, BEFORE: before}),
            more=0,
            looked_to=found.looked_to,
            links=links_of(found, wanted),
        )

    def live_job(self, request: Request) -> Response:
        """Send a job's progress and its rows whenever they have changed, until it has ended."""
        job, visitor = self.job_of(request), visitor_of(request)
        wanted = wanted_rows(request.query_params)
        before = number(request.query_params.get(BEFORE, "")) or 0

        def parts() -> tuple[Mapping[str, str], bool]:
            values = self._job(job.id)
            in_place = fills_in_place(wanted)
            rows = _lines(job, find_rows(self._store, job.id, job.total, wanted)) if in_place else []
            more = max(0, comers(self._store, job.id, wanted) - before)
            listed = rendered("job_rows.html", job=values["job"], rows=rows, more=more, wanted=wanted)
            top = rendered("job_live.html", **values, visitor=visitor)
            return {"message": top, "rows": listed}, values["job"].status.state.is_final

        return stream(parts, self._ending)

    def _job(self, job_id: str) -> dict[str, Any]:
        """Return what changes on a job's page."""
        return {
            "job": JobView.of(job_status(self._store, job_id)),
            "ends": end_lines(count_ends(self._store, job_id)),
        }

    def report(self, request: Request) -> Response:
        """Show a job's report as far as it is; for operators, since it names where models lie."""
        job = self.job_of(request)
        if not visitor_of(request).caller.operator:
            raise Refused(403, "this is for operators", "forbidden")
        if not count_ends(self._store, job.id):
            raise Refused(409, "no row has a result yet", "invalid_state")
        label = write_strategies(job.spec.strategies)
        made = write_page(
            build_report(self._store, {label: job.id}, title=f"How {job.name} ended"), back=f"/jobs/{job.id}"
        )
        # It runs a script of its own, which the policy in the page itself knows by its hash.
        return HTMLResponse(made, headers={**HEADERS, "content-security-policy": "frame-ancestors 'none'"})

    def row(self, request: Request) -> Response:
        """Show a row: what it asks, its answer, and how that came about."""
        job = self.job_of(request)
        row = request.path_params["row"]
        found = (
            row_history(self._store, job.id, row) if row < job.total else None
        )  # a database has smaller numbers
        if found is None:
            raise HTTPException(404, f"job {job.id} has no such row")
        spec = job.specs.get(found.round, job.spec)
        result = found.result
        before = [item for item in found.attempts if item.attempt is not result]
        return page(
            request,
            "row.html",
            job=job,
            found=found,
            turns=turns_of(plan_of(job.columns, spec), found.cells),
            cells=list(zip(job.columns, found.cells, strict=False)),
            result=attempt_view(result) if result is not None else None,
            before=[attempt_view(item.attempt) for item in before],
        )

    def static(self, request: Request) -> Response:
        """Send the style, the script or the icon."""
        name = request.path_params["name"]
        if name not in ASSETS:
            raise HTTPException(404, "there is no such file")
        return Response(asset(name), headers={**HEADERS, "cache-control": "no-cache"}, media_type=ASSETS[name])


def _lines(job: Job, found: Found) -> list[RowLine]:
    """Return some rows of a job as they stand in its list."""
    plan = plan_of(job.columns, job.spec)
    return [row_line(row, plan) for row in found.rows]


def visitor_of(request: Request) -> Visitor:
    """Return who looks at a page."""
    visitor = request.scope[VISITOR]
    assert isinstance(visitor, Visitor)
    return visitor


def page(request: Request, template: str, status: int = 200, **values: object) -> Response:
    """Return a page as an answer."""
    return HTMLResponse(rendered(template, visitor=visitor_of(request), **values), status, HEADERS)


def _missing(request: Request, error: Exception) -> Response:
    """Say that a job is not there."""
    return page(request, "refused.html", 404, told=str(error))


def _routed(request: Request, error: Exception) -> Response:
    """Say what is wrong with a request."""
    assert isinstance(error, HTTPException)
    return page(request, "refused.html", error.status_code, told=error.detail)


def _away(request: Request, error: Exception) -> Response:
    """Say that something of the service's own fails; what it is, its operator is told."""
    note(f"a page could not be shown: {error}")
    return page(request, "refused.html", 503, told="this cannot be shown at the moment; try again later")


def _refused(request: Request, error: Exception) -> Response:
    """Say why a request is refused."""
    assert isinstance(error, Refused)
    return page(request, "refused.html", error.status, told=str(error))


def _broken(request: Request, error: Exception) -> Response:
    """Say that the service has failed; how, uvicorn writes for its operator."""
    del error
    return page(request, "refused.html", 500, told="the service has failed on this request")


_HANDLERS = {
    JobNotFound: _missing,
    Refused: _refused,
    HTTPException: _routed,
    EndmarkError: _away,
    OSError: _away,
    Exception: _broken,
}
