"""`endmark serve` asked by the official `openai` client; a real worker answers."""

import gzip
import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from endmark.cli.http.access import is_loopback
from endmark.cli.main import main
from endmark.jobs.launch.workers import WorkerOptions, start_worker
from endmark.jobs.settings import Settings
from tests.integration.ports import free_port
from tests.integration.tiny_model import save_tiny_model

pytestmark = pytest.mark.integration

ENDMARK = Path(sys.executable).with_name("endmark")
TOKEN, OTHER, OPERATOR = (f"{name}-token-of-sufficient-length" for name in ("my", "your", "chief"))
CHAT = "/v1/chat/completions"
THINKING = Path(__file__).parents[2] / "examples" / "thinking_model" / "model"


@contextmanager
def served(folder, model, *options):
    """Run a service with tokens, and a worker of its model; yield its port."""
    settings = Settings(folder / "home", f"sqlite:///{folder / 'home' / 'endmark.db'}", None)
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ENDMARK_")}
    environment |= {**settings.environment(), "ENDMARK_TOKENS": f"me:{TOKEN},you:{OTHER}"}
    environment |= {"ENDMARK_OPERATOR_TOKENS": OPERATOR}
    process = subprocess.Popen(
        [ENDMARK, "serve", "--model", model, "--port", str(port), *options],
        env=environment,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        except urllib.error.URLError:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    worker = start_worker(settings, WorkerOptions(model=model, gpus="cpu"))
    yield port
    worker.stop()
    process.terminate()
    assert process.wait(30) == 0, process.stderr.read()
    process.stderr.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service with limits, on a tiny model; yields its port, model and folder."""
    folder = tmp_path_factory.mktemp("serve")
    model = str(save_tiny_model(folder / "tiny"))
    limits = ["--max-file-mb", "1", "--max-requests", "1200", "--max-new-tokens", "4"]
    with served(folder, model, *limits) as port:
        yield port, model, folder


def client_at(port):
    return openai.OpenAI(api_key=TOKEN, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0)


@pytest.fixture
def client(service):
    with client_at(service[0]) as made:
        yield made


def requests(model, count, url=CHAT, **body):
    asked = {"messages": [{"role": "user", "content": "Hi"}]} if url == CHAT else {"prompt": "Once"}
    lines = [
        {"custom_id": f"r{row}", "method": "POST", "url": url, "body": {"model": model, **asked, **body}}
        for row in range(count)
    ]
    return io.BytesIO("".join(json.dumps(line) + "\n" for line in lines).encode())


def submit(client, content, endpoint=CHAT, **options):
    file = client.files.create(file=("batch.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"why": "test"}, **options
    )


def poll(client, batch, *wanted, seconds=120):
    deadline = time.monotonic() + seconds
    while (batch := client.batches.retrieve(batch.id)).status not in wanted:
        assert batch.status in ("validating", "in_progress", "finalizing", "cancelling"), batch
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return batch


def lines(client, file_id):
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_a_thousand_requests_come_back_under_their_ids(client, service):
    model = service[1]
    assert [item.id for item in client.models.list()] == [model]
    batch = submit(client, requests(model, 1000, max_tokens=2, temperature=0.5, stop=["§"]))
    batch = poll(client, batch, "completed")
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (
        1000,
        1000,
        0,
    )
    assert batch.error_file_id is None
    assert batch.metadata == {"why": "test"}
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    found = lines(client, batch.output_file_id)
    assert [line["custom_id"] for line in found] == [f"r{row}" for row in range(1000)]
    answers = [ChatCompletion.model_validate(line["response"]["body"], strict=True) for line in found]
    assert all(answer.usage.completion_tokens <= 2 for answer in answers)
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"


def test_the_client_reads_thoughts_and_their_tokens(tmp_path):
    """Of rows that end in their thought, too: the content is empty there, and never holds a thought."""
    prompts = ("What can I do in Paris?", "Tell me about Lisbon.", "What is there to see in Ghent?")
    body = {"model": str(THINKING), "temperature": 0, "max_completion_tokens": 128}
    asked = [
        {
            "custom_id": prompt,
            "method": "POST",
            "url": CHAT,
            "body": {**body, "messages": [{"role": "user", "content": prompt}]},
        }
        for prompt in prompts
    ]
    content = "".join(json.dumps(line) + "\n" for line in asked)
    with served(tmp_path, str(THINKING)) as port, client_at(port) as client:
        batch = poll(client, submit(client, io.BytesIO(content.encode())), "completed")
        bodies = [line["response"]["body"] for line in lines(client, batch.output_file_id)]
    answers = [ChatCompletion.model_validate(body, strict=True) for body in bodies]
    assert len(answers) == len(prompts)
    unanswered = 0
    for answer in answers:
        message, usage = answer.choices[0].message, answer.usage
        thought = usage.completion_tokens_details.reasoning_tokens
        assert message.reasoning_content
        assert "think>" not in message.content + message.reasoning_content
        assert 0 < thought <= usage.completion_tokens <= 128
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        unanswered += not message.content
    assert 0 < unanswered < len(prompts)


def test_a_batch_is_cancelled_in_the_middle_and_keeps_what_is_done(client, service):
    batch = submit(client, requests(service[1], 1100, max_completion_tokens=60))
    deadline = time.monotonic() + 60
    while not client.batches.retrieve(batch.id).request_counts.completed:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = poll(client, batch, "cancelled")
    done = batch.request_counts.completed
    assert 0 < done < 1100
    assert len(lines(client, batch.output_file_id)) == done
    errors = lines(client, batch.error_file_id)
    assert len(errors) == 1100 - done
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    with pytest.raises(openai.BadRequestError, match="the batch is cancelled"):
        client.batches.cancel(batch.id)


def test_a_bad_file_fails_with_its_lines_and_stores_nothing(client, service):
    model = service[1]
    content = requests(model, 1).getvalue() + b"no json\n" + requests("gpt-4", 1).getvalue()
    content += requests(model, 1, "/v1/completions").getvalue() + requests(model, 1, tools=[{}]).getvalue()
    batch = poll(client, submit(client, io.BytesIO(content)), "failed")
    assert [error.line for error in batch.errors.data] == [2, 3, 4, 5]
    said = [error.message for error in batch.errors.data]
    assert "is not JSON" in said[0]
    assert f"not `{model}`" in said[1]
    assert "the batch's endpoint" in said[2]
    assert "`body.tools` is not supported" in said[3]
    assert batch.request_counts.total == 0
    packed = poll(client, submit(client, io.BytesIO(gzip.compress(content))), "failed")  # it was told line by line
    assert [error.message for error in packed.errors.data] == ["the file is compressed: upload what is in it"]
    many = poll(client, submit(client, requests(model, 1201)), "failed")
    assert "more than 1,200 requests" in many.errors.data[0].message


def test_a_response_format_is_kept_and_one_that_cannot_be_is_refused_with_its_line(client, service):
    """The value closes within four tokens of one byte, the end token included."""
    schemas = {"s": {"enum": [7, 42]}, "bad": {"type": "array", "uniqueItems": True}}
    formats = {
        name: {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
        for name, schema in schemas.items()
    }
    formats |= {"o": {"type": "json_object"}, "t": {"type": "text"}}
    content = {
        name: requests(service[1], 1, response_format=asked).getvalue().replace(b"r0", name.encode())
        for name, asked in formats.items()
    }
    refused = poll(client, submit(client, io.BytesIO(content["o"] + content["bad"])), "failed")
    assert [(error.line, "`uniqueItems`" in error.message) for error in refused.errors.data] == [(2, True)]
    kept = io.BytesIO(content["s"] + content["o"] + content["t"])
    batch = poll(client, submit(client, kept), "completed")
    bodies = {line["custom_id"]: line["response"]["body"] for line in lines(client, batch.output_file_id)}
    texts = {name: body["choices"][0]["message"]["content"] for name, body in bodies.items()}
    assert texts["s"] in ("7", "42")
    assert json.loads(texts["o"]) == {}
    assert {name: body["endmark"]["valid"] for name, body in bodies.items()} == {"s": True, "o": True, "t": None}


def test_completions_are_raw_and_failed_rows_are_in_the_error_file(client, service):
    content = requests(service[1], 2, "/v1/completions").getvalue()
    content += requests(service[1], 1, "/v1/completions", prompt="x" * 2000).getvalue().replace(b"r0", b"r2")
    batch = poll(client, submit(client, io.BytesIO(content), "/v1/completions"), "completed")
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1)
    bodies = [Completion.model_validate(line["response"]["body"]) for line in lines(client, batch.output_file_id)]
    assert bodies[0].usage.prompt_tokens == len("Once") == bodies[1].usage.prompt_tokens
    (failed,) = lines(client, batch.error_file_id)
    assert failed["custom_id"] == "r2"


def test_files_and_batches_are_listed_in_pages_and_deleted(client, service):
    one = client.files.create(file=("one.jsonl", b"x"), purpose="batch")
    assert client.files.content(one.id).text == "x"
    assert client.files.delete(one.id).deleted
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        client.files.retrieve(one.id)
    made = [submit(client, io.BytesIO(b"{}")).id for _ in range(3)]
    assert [batch.id for batch in client.batches.list(limit=1)][:3] == made[::-1]
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_../../etc")
    with pytest.raises(openai.BadRequestError, match="`endpoint`"):
        client.batches.create(input_file_id=one.id, endpoint="/v1/embeddings", completion_window="24h")


@contextmanager
def client_of(client, token):
    with openai.OpenAI(api_key=token, base_url=client.base_url, max_retries=0) as made:
        yield made


def test_the_client_pages_through_files_that_expire(client):
    life = {"anchor": "created_at", "seconds": 3600}
    made = [
        client.files.create(file=(f"{n}.jsonl", b"x"), purpose="batch", expires_after=life).id for n in range(5)
    ]
    for file_id in made:
        file = client.files.retrieve(file_id)
        assert file.expires_at - file.created_at in (3600, 3601)
    assert [file.id for file in client.files.list(limit=2)][:5] == made[::-1]
    assert [file.id for file in client.files.list(order="asc", after=made[1], purpose="batch")] == made[2:]
    with pytest.raises(openai.BadRequestError, match="not in the list"):
        client.files.list(after="file-x")
    with pytest.raises(openai.BadRequestError, match="3,600 to 2,592,000 seconds"):
        client.files.create(file=("x", b"x"), purpose="batch", expires_after={**life, "seconds": 60})


def test_another_client_sees_nothing_of_it_and_the_operator_all(client, service):
    life = {"anchor": "created_at", "seconds": 3600}
    batch = poll(client, submit(client, requests(service[1], 2), output_expires_after=life), "completed")
    file = client.files.retrieve(batch.output_file_id)
    assert file.expires_at - file.created_at in (3600, 3601)
    assert batch.expires_at - batch.created_at in (86_400, 86_401)
    with client_of(client, OTHER) as other:
        assert list(other.files.list()) == list(other.batches.list()) == []
        for ask in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                ask(batch.output_file_id)
        for ask in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                ask(batch.id)
    with client_of(client, OPERATOR) as operator:
        assert operator.batches.retrieve(batch.id) == batch
        assert len(lines(operator, batch.output_file_id)) == 2


def test_who_has_no_token_and_what_is_too_large_is_refused(client, service):
    with (
        openai.OpenAI(api_key="another-token-of-that-length", base_url=client.base_url, max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("big.jsonl", b"x" * 2 * 2**20), purpose="batch")
    assert caught.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match="`purpose`"):
        client.files.create(file=("x.jsonl", b"x"), purpose="fine-tune")

    def chunks():
        yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.jsonl"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 2**16
        yield b"\r\n--b--\r\n"

    url = f"http://127.0.0.1:{service[0]}/v1/files"
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "multipart/form-data; boundary=b"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, chunks(), headers, method="POST"), timeout=20)
    refused.value.close()
    assert refused.value.code == 413
    assert not list((service[2] / "home" / "serve" / "files").glob("*.part"))


def test_a_second_service_on_the_same_home_is_refused(service, monkeypatch, capsys):
    folder = service[2] / "home"
    monkeypatch.setenv("ENDMARK_HOME", str(folder))
    monkeypatch.delenv("ENDMARK_TOKENS", raising=False)
    assert main(["serve", "--model", service[1]]) == 2
    assert f"another `endmark serve` uses `{folder / 'serve'}`" in capsys.readouterr().err


def test_a_batch_whose_file_has_gone_fails_and_says_so(service, client, tmp_path):
    """Its check ended in silence once, and the batch stayed in validation for ever."""
    file = client.files.create(file=("gone.jsonl", requests(service[1], 1)), purpose="batch")
    (service[2] / "home" / "serve" / "files" / f"{file.id}.jsonl").rename(tmp_path / "gone")
    (service[2] / "home" / "serve" / "files" / f"{file.id}.jsonl").symlink_to("/proc/self/mem")
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert poll(client, batch, "failed").errors.data[0].message


def test_tokens_are_required_where_others_can_reach_it(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("ENDMARK_TOKENS", raising=False)
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "there are no tokens" in capsys.readouterr().err
    (tmp_path / "tokens").write_text("short\n")
    assert main(["serve", "--token-file", str(tmp_path / "tokens")]) == 2
    assert "fewer than 16" in capsys.readouterr().err
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "localhost", "0.0.0.0", "example.org")] == [
        True,
        True,
        True,
        False,
        False,
    ]
