"""The ledger on both databases, and the wheel.

Every test that takes `store` or `database_url` runs on SQLite and on Postgres; with ENDMARK_TESTS_POOLED=1 that is
behind PgBouncer.
"""

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from endmark.db.connection import open_store, upgrade
from tests.integration.pgbouncer import PROGRAM, PgBouncer
from tests.integration.postgres_server import PostgresServer

# What a shell runs in its background ignores Ctrl-C, and so would all that the tests start: three of them failed
# whenever the suite ran so.
signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def postgres():
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def pooler(postgres):
    if PROGRAM is None:
        pytest.skip("PgBouncer is not installed: nothing is shown of it (Debian: apt-get install pgbouncer)")
    found = PgBouncer(postgres)
    yield found
    found.remove()


@pytest.fixture(scope="session")
def postgres_template(postgres):
    """The name of a database with Endmark's tables, to be copied."""
    url = postgres.create()
    upgrade(url)
    return url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request):
    return request.param


@pytest.fixture
def database_url(dialect, tmp_path, request):
    """A database with tables and nothing in them."""
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url = request.getfixturevalue("postgres").create(request.getfixturevalue("postgres_template"))
    return request.getfixturevalue("pooler").url(url) if os.environ.get("ENDMARK_TESTS_POOLED") else url


@pytest.fixture
def empty_database_url(dialect, tmp_path, request):
    """A database without tables."""
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return request.getfixturevalue("postgres").create()


@pytest.fixture
def store(database_url):
    with open_store(database_url) as opened:
        yield opened


@pytest.fixture
def start(store):
    """Start services over a scripted engine; drain at the end those that still run."""
    from tests.integration.service_fixtures import Worker

    started = []

    def make(**options):
        started.append(Worker(store, **options))
        return started[-1]

    yield make
    for worker in started:
        if not worker.service.drained:
            worker.drain(0)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel that `python -m build` makes of a copy of the source, by way of the sdist, without network."""
    place = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".venv", ".git", "__pycache__", "build", "*.egg-info", ".*_cache", "shared")
    shutil.copytree(ROOT, place / "source", symlinks=True, ignore=left_out)
    words = ["build", "--no-isolation", "--outdir", place, place / "source"]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def lent(tmp_path_factory):
    """A wheel that lends the tests' packages to where it is installed, so that none is fetched twice."""
    path = tmp_path_factory.mktemp("lent") / "lent-1-py3-none-any.whl"
    about = {
        "METADATA": "Metadata-Version: 2.1\nName: lent\nVersion: 1\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "lent.pth", "".join(f"{place}\n" for place in sys.path if place.endswith("site-packages"))
        )
        for name, text in about.items():
            archive.writestr(f"lent-1.dist-info/{name}", text)
    return path


@pytest.fixture(scope="session")
def installed(wheel, lent, tmp_path_factory):
    """The command of a virtual environment into which pip installed the wheel beside what it needs."""
    place = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    # Ours are among the lent packages too, as they lie in the checkout: the wheel's must come in their place.
    for words in ([lent], ["--no-deps", "--ignore-installed", wheel]):
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", *words],
            check=True,
            capture_output=True,
        )
    return place / "bin" / "endmark"
