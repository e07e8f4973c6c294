"""What a user sees of a job that failed as a whole, and how he runs it again."""

import json

import pytest

from endmark.cli.completion import complete
from endmark.cli.main import main
from endmark.cli.submission import Submission
from endmark.db.connection import open_store
from endmark.db.jobs import fail_job, load_job
from endmark.db.progress import job_status
from endmark.db.shards import claim
from endmark.jobs.errors import EndmarkError
from endmark.jobs.settings import Settings
from endmark.jobs.vocabulary import JobState
from tests.integration.service_fixtures import submit

pytestmark = pytest.mark.integration
REASON = "worker host:1 cannot run it: it is of version 9"


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Run a command in this process; return its exit code, standard output and standard error."""
    for name in ("ENDMARK_DATABASE_URL", "ENDMARK_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENDMARK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main(list(words))
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def failed(call):
    """A store, and a job in it that failed."""
    with open_store(Settings.load().database_url) as store:
        job = submit(store, ["one", "two"])
        fail_job(store, claim(store, worker="host:1", model="m", adapter=None), REASON)
        yield store, job


def test_status_shows_the_reason_and_the_way_on(call, failed):
    _, job = failed
    again = f"`endmark retry {job} --failed`"
    code, out, err = call("status", job)
    assert code == 0
    assert f"because         {REASON}" in out
    assert again in err
    code, out, err = call("status")
    assert "failed" in out
    assert f"job {job} failed: {REASON}" in err
    assert again in err
    assert json.loads(call("status", job, "--json")[1])["error"] == REASON


def test_it_is_retried_and_resume_says_how(call, failed):
    store, job = failed
    code, _, err = call("resume", job)
    assert code == 1
    assert f"`endmark retry {job} --failed`" in err
    code, _, err = call("retry", job, "--failed")
    assert code == 0, err
    assert "2 rows of job" in err
    status = job_status(store, job)
    assert (status.state, status.error, status.pending) == (JobState.QUEUED, None, 2)


def test_a_run_ends_with_the_reason_and_writes_nothing(failed, tmp_path):
    """Its results were exported as if it had ended, with no answer in them."""
    store, job = failed
    output = tmp_path / "out.csv"
    wanted = Submission(job, load_job(store, job).spec, 2)
    with pytest.raises(EndmarkError, match=f"job {job} failed: {REASON}") as caught:
        complete(Settings.load(), store, wanted, str(output))
    assert f"`endmark retry {job} --failed --run -o {output}`" in caught.value.hint
    assert not output.exists()
