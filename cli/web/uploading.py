"""A new job from a form: a dataset that is uploaded, or prompts that are typed in, and how they are answered."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from endmark.cli.http.naming import file_name
from endmark.cli.options import adapter_folder, model_name
from endmark.cli.sampling import chosen_sampling
from endmark.cli.submission import submit_rows
from endmark.cli.web.actions import Wake, check_operator, whole_number
from endmark.cli.web.forms import proved_form, text_of
from endmark.cli.web.pages import page
from endmark.cli.web.rendering import HEADERS
from endmark.cli.web.sessions import Sessions
from endmark.db.connection import Store
from endmark.db.progress import all_statuses
from endmark.db.workers import list_workers
from endmark.jobs.datasets import open_dataset
from endmark.jobs.errors import EndmarkError, MissingDependency, ModelError, UsageError
from endmark.jobs.settings import DEMO_MODEL
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies

_FIELDS = ("prompts", "model", "adapter", "strategies", "budget", "name", "template")
_SUFFIX_MOST = 12  # characters of what tells a dataset's format


@dataclass(frozen=True, slots=True)
class _Given:
    """What a form says."""

    values: Mapping[str, str]  # texts by the fields' names
    trace: bool
    file: UploadFile | None

    @classmethod
    def of(cls, form: FormData) -> "_Given":
        """Return what is in a form."""
        file = form.get("file")
        chosen = file if isinstance(file, UploadFile) and file.filename else None
        return cls({name: text_of(form, name) for name in _FIELDS}, text_of(form, "trace") == "on", chosen)


class Uploads:
    """The handlers, over one ledger; for operators.

    Args:
        store: the ledger.
        sessions: who is signed in.
        wake: told of the model of a job that was stored.
        model: the model that is asked where a form names no other; None for the one of the newest job.
    """

    def __init__(self, store: Store, sessions: Sessions, wake: Wake, model: str | None = None) -> None:
        self._store = store
        self._sessions = sessions
        self._wake = wake
        self._model = model

    def routes(self) -> list[BaseRoute]:
        """Return the routes; they stand before those of single jobs."""
        return [Route("/jobs/new", self.ask), Route("/jobs", self.store, methods=["POST"])]

    def ask(self, request: Request) -> Response:
        """Ask for a dataset and how it is to be answered."""
        check_operator(request)
        models = self._models()
        values = {**dict.fromkeys(_FIELDS, ""), "model": models[0], "strategies": "whole", "budget": "256"}
        return page(request, "new.html", values=values, trace=True, models=models, problem=None, fix=None)

    async def store(self, request: Request) -> Response:
        """Store a job, whole or not at all."""
        check_operator(request)
        async with proved_form(request, self._sessions) as form:
            given = _Given.of(form)
            try:
                job_id = await run_in_threadpool(self._store_job, given)
            except (UsageError, ModelError, MissingDependency) as error:
                models = await run_in_threadpool(self._models)
                shown = {"values": given.values, "trace": given.trace, "models": models, "problem": str(error)}
                shown["fix"] = _fix_of(error)
                return page(request, "new.html", 400, **shown)
        return RedirectResponse(f"/jobs/{job_id}", 303, HEADERS)

    def _models(self) -> list[str]:
        """Return the models that may be meant, the likeliest first."""
        known = [self._model] if self._model is not None else []
        known += [item.model for item in list_workers(self._store)]
        known += [item.model for item in all_statuses(self._store)]
        return list(dict.fromkeys([*known, DEMO_MODEL]))

    def _store_job(self, given: _Given) -> str:
        """Store what a form asks for; return the job's id."""
        spec = _spec_of(given)
        with tempfile.TemporaryDirectory(prefix="endmark-upload-") as folder:
            name = Path(file_name(given.file.filename)).name if given.file is not None else "prompts.txt"
            suffixes = [suffix for suffix in Path(name).suffixes[-2:] if len(suffix) < _SUFFIX_MOST]
            path = Path(folder, f"dataset{''.join(suffixes)}")
            with path.open("wb") as target:
                if given.file is not None:
                    shutil.copyfileobj(given.file.file, target)
                else:
                    target.write(given.values["prompts"].encode("utf-8", "replace"))
            try:
                with open_dataset(str(path)) as dataset:
                    job = submit_rows(self._store, dataset, spec, name=given.values["name"] or name)
            except UsageError as error:
                raise UsageError(str(error).replace(str(path), name), hint=error.hint) from error
        self._wake(*job.spec.queue)
        return job.job_id


def _fix_of(error: EndmarkError) -> str | None:
    """Return what to do about an error, as far as a page can do it: without options of the command line."""
    parts = re.split(r"; |, or (?=leave )", error.hint or "")
    return "; ".join(part for part in parts if part and "--" not in part and part != "nothing was stored") or None


def _spec_of(given: _Given) -> GenerationSpec:
    """Return the spec that a form asks for.

    Raises:
        UsageError: it has no dataset, or a value that is wrong.
    """
    values = given.values
    if (given.file is None) == (not values["prompts"]):
        raise UsageError("give either a file or prompts")
    model = model_name(values["model"] or DEMO_MODEL)
    budget = whole_number(values["budget"], "the budget")
    return GenerationSpec(
        model=model,
        adapter=adapter_folder(values["adapter"] or None, model),
        strategies=build_strategies([values["strategies"]] if values["strategies"] else ()),
        max_new_tokens=GenerationSpec().max_new_tokens if budget is None else budget,
        sampling=chosen_sampling(model, {}),
        template=values["template"] or None,
        trace=given.trace,
    )
