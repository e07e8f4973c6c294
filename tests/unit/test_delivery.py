"""Keys, proofs and signatures of deliveries; the receiver's side is the package `standardwebhooks`."""

import base64
import hmac
import json
import os
import stat
import struct
import threading
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from endmark.jobs.delivery.keys import SECRET, Key, home_key, needed_secret, secret_key
from endmark.jobs.delivery.sending import check_url, send, shown_url, signature_headers
from endmark.jobs.delivery.word import Delivery, word_of
from endmark.jobs.errors import UsageError
from endmark.jobs.progress import JobStatus
from endmark.jobs.vocabulary import JobState

pytestmark = pytest.mark.unit
KEY = Key(b"0123456789abcdef")


def command(text):
    return Delivery("job", "command", text, KEY.id, KEY.proof("job", "command", text), 1)


def test_a_receiver_with_the_secret_accepts_what_is_signed_and_nothing_else():
    secret = "whsec_" + base64.b64encode(os.urandom(24)).decode()
    body = b'{"type": "job.ended"}'
    headers = signature_headers(secret_key({SECRET: secret}), "job_1_url", body, time.time())
    assert Webhook(secret).verify(body, headers) == json.loads(body)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace(b"ended", b"begun"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(os.urandom(24)).decode()).verify(body, headers)


def test_a_proof_holds_for_its_own_delivery_alone():
    proof = KEY.proof("job", "command", "true")
    assert KEY.proves(proof, "job", "command", "true")
    for other in (("job2", "command", "true"), ("job", "url", "true"), ("job", "command", "false")):
        assert not KEY.proves(proof, *other)
    assert not Key(b"another key of us").proves(proof, "job", "command", "true")
    assert KEY.proof("ab", "c", "d") != KEY.proof("a", "bc", "d")


def test_what_stands_in_ledgers_is_made_as_ever():
    """Proofs and the ids of keys are stored: another way to make them would leave what is stored untold."""

    def signed(*parts):
        behind_lengths = b"".join(struct.pack(">Q", len(part)) + part for part in parts)
        return hmac.digest(KEY.value, behind_lengths, "sha256").hex()

    assert KEY.id == signed(b"endmark delivery key")[:16] == "442c2ff278d2d470"
    assert KEY.proof("job", "url", "https://é") == signed(b"job", b"url", "https://é".encode())


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("short", "has less than 16 bytes"),
        ("whsec_!!!", "is not base64"),
        ("whsec_YWJj", "has less than 16 bytes"),
    ],
)
def test_a_secret_that_is_none_is_refused_without_being_shown(secret, message):
    with pytest.raises(UsageError, match=message) as refused:
        secret_key({SECRET: secret})
    assert secret not in str(refused.value)
    assert "openssl rand" in refused.value.hint


def test_a_secret_that_is_not_set_is_asked_for():
    assert secret_key({}) is None
    with pytest.raises(UsageError, match="which is not set"):
        needed_secret({})


def test_the_key_of_a_home_is_made_once_and_is_its_owners(tmp_path):
    assert home_key(tmp_path) is None
    found = set()
    threads = [threading.Thread(target=lambda: found.add(home_key(tmp_path, make=True))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {home_key(tmp_path)}
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600]
    (tmp_path / "delivery.key").write_bytes(b"cut")
    with pytest.raises(UsageError, match="is no key"):
        home_key(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "file:///etc/passwd",
        "host/x",
        "",
        "http://",
        "http://host:99999/",
        "http://host:0/",
        "http://[x/",
    ],
)
def test_only_urls_of_http_are_sent_to(url):
    """Port 0 was taken: nobody can listen there."""
    with pytest.raises(UsageError, match="no URL to send to"):
        check_url(url)


def test_a_url_with_a_password_is_refused_and_paths_are_not_shown():
    check_url("https://hooks.example.com:8443/T0/secret")
    assert shown_url("https://hooks.example.com:8443/T0/secret?x=1") == "https://hooks.example.com:8443"
    with pytest.raises(UsageError) as refused:
        check_url("https://me:pass@example.com/x")
    assert "pass@" not in f"{refused.value} {refused.value.hint}"


def test_a_command_has_the_word_on_standard_input_and_in_its_environment(tmp_path):
    out = tmp_path / "out"
    status = JobStatus(
        "3f2a",
        "a 'name'; rm x" + "y" * 10**6,
        JobState.COMPLETED,
        "m",
        None,
        (),
        2,
        0,
        0,
        2,
        0,
        0,
        {},
        1,
        1,
        1,
        7,
        9,
        0.0,
        None,
    )
    word = word_of(status, 0.0)
    assert send(command(f"cat > '{out}'; printf '\\n%s' \"$ENDMARK_JOB\" >> '{out}'"), KEY, word, 0.0) is None
    first, second = out.read_text().splitlines()
    assert first == second == word
    assert json.loads(word)["timestamp"] == "1970-01-01T00:00:00Z"
    assert json.loads(word)["data"]["name"].startswith("a 'name'; rm xyyy")


def test_a_command_that_reads_nothing_succeeds_and_one_that_fails_says_why():
    assert send(command("true"), KEY, "x" * 100_000, 0.0) is None
    assert send(command("echo no mail here >&2; exit 3"), KEY, "{}", 0.0) == "exit code 3: no mail here"
    assert send(command("exit 4"), KEY, "{}", 0.0) == "exit code 4"
