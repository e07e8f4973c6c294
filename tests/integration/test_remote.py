"""Datasets and results in a bucket, on a real S3 server; and over HTTP."""

import csv
import functools
import gzip
import http.server
import io
import json
import os
import subprocess
import sys
import threading

import boto3
import pytest
from moto.server import ThreadedMotoServer

from endmark.jobs.errors import MissingDependency, UsageError
from endmark.jobs.remote import shown

pytestmark = pytest.mark.integration
ROWS = "id,prompt\r\n1,What can I do in Paris?\r\n2,Name three rivers.\r\n"


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(server, tmp_path):
    """What a user has set for a bucket that is not Amazon's."""
    return {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "endmark",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "ENDMARK_HOME": str(tmp_path / "home"),
    }


@pytest.fixture
def bucket(server, request):
    """An empty bucket and its name."""
    client = boto3.client(
        "s3", endpoint_url=server, aws_access_key_id="endmark", aws_secret_access_key="x", region_name="us-east-1"
    )
    name = f"bucket-{abs(hash(request.node.name)) % 10**8}"
    client.create_bucket(Bucket=name)
    return client, name


def endmark(*words, environment):
    """Run the command line; return the finished process."""
    command = [sys.executable, "-m", "endmark.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env={**os.environ, **environment})


def names(client, name):
    return sorted(item["Key"] for item in client.list_objects_v2(Bucket=name).get("Contents", ()))


def test_a_run_reads_a_bucket_and_writes_into_it(bucket, environment, tmp_path):
    """The dataset is compressed, the results are too, and nothing else is left in the bucket."""
    client, name = bucket
    client.put_object(Bucket=name, Key="in/prompts.csv.gz", Body=gzip.compress(ROWS.encode()))
    source, target = f"s3://{name}/in/prompts.csv.gz", f"s3://{name}/out/results.csv.gz"
    done = endmark("run", source, "-o", target, "--max-new-tokens", "30", environment=environment)
    assert done.returncode == 0, done.stderr
    assert names(client, name) == ["in/prompts.csv.gz", "out/results.csv.gz"]
    written = gzip.decompress(client.get_object(Bucket=name, Key="out/results.csv.gz")["Body"].read()).decode()
    rows = list(csv.DictReader(io.StringIO(written, newline="")))
    assert [row["id"] for row in rows] == ["1", "2"]
    assert all(row["response"] for row in rows)
    assert f"`{target}`" in done.stderr

    # The job has its name, and no secret stands anywhere in the home.
    (job,) = json.loads(endmark("status", "--json", environment=environment).stdout)
    assert job["name"] == "prompts.csv.gz"
    held = b"".join(path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
    assert b"very-secret" not in held

    # Parquet is written from any job, and read again: it is read from its end.
    table = f"s3://{name}/out/results.parquet"
    assert endmark("export", "latest", "-o", table, environment=environment).returncode == 0
    again = endmark("submit", table, "--prompt-column", "prompt", environment=environment)
    assert again.returncode == 0, again.stderr
    assert "2 rows stored" in again.stderr


def test_what_cannot_be_is_told_before_a_job_is_stored(bucket, environment, tmp_path):
    client, name = bucket
    client.put_object(Bucket=name, Key="prompts.csv", Body=ROWS.encode())
    source = f"s3://{name}/prompts.csv"
    for words, said in [
        ((f"s3://{name}/none.csv", "-o", "x.csv"), f"there is no `s3://{name}/none.csv`"),
        ((source, "-o", "s3://no-such-bucket/x.csv"), "`s3://no-such-bucket/x.csv`"),
        ((source, "-o", source), "is the dataset itself"),
        ((source, "-o", f"s3://{name}/x.docx"), "there is no format"),
        ((source, "-o", "https://example.com/x.csv"), "HTTP is for reading"),
        ((source, "-o", "nonsense://x/y.csv"), "nonsense"),
    ]:
        done = endmark("run", *words, environment=environment)
        assert done.returncode in (1, 2), done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert not json.loads(endmark("status", "--json", environment=environment).stdout)
    assert names(client, name) == ["prompts.csv"]


def test_a_dataset_over_http(environment, tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    handler = functools.partial(_Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://user:hidden@127.0.0.1:{server.server_port}/prompts.jsonl?signature=hidden"
        done = endmark("submit", url, environment=environment)
        bad = endmark("submit", url.replace("prompts", "none"), environment=environment)
        server.shutdown()
    away = endmark("submit", url, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "2 rows stored" in done.stderr
    assert bad.returncode == 2
    assert "there is no `http://" in bad.stderr
    assert "cannot read `http://" in away.stderr  # and not that there is no such file
    assert "hidden" not in done.stderr + bad.stderr + away.stderr


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_):
        pass


def test_a_kind_whose_library_is_missing_names_the_extra(monkeypatch):
    from endmark.jobs import remote

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingDependency) as caught:
        remote.open_url("s3://bucket/x.csv")
    assert "endmark[remote]" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://bucket/a.csv", "s3://bucket/a.csv"),
        ("https://me:word@host:8/a.csv?X-Amz-Signature=1#x", "https://host:8/a.csv"),
        ("ftp://me@host", "ftp://host"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url, said):
    assert shown(url) == said


def test_an_error_of_a_library_does_not_tell_the_secrets(monkeypatch):
    from endmark.jobs import remote

    def fail(url):
        raise RuntimeError(f"no route to {url} with word")

    monkeypatch.setattr(remote, "_system", fail)
    with pytest.raises(UsageError) as caught:
        remote.open_url("ftp://me:word@host/a.csv?sig=x")
    assert "word" not in str(caught.value)
