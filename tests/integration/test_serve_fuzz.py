"""Requests that nobody would send on purpose: each is answered in the API's shape and breaks nothing."""

import json
import random

import pytest

from tests.integration.serve_fixtures import CHAT, form, requests, serving

pytestmark = pytest.mark.integration

METHODS = ["GET", "GET", "POST", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "PATCH", "x"]
TEXTS = [
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",
        "\udfff\ud800",
        "\u202e",
        "\x1b[31m",
        "../../etc/passwd",
        "/etc/passwd",
        "x" * 5000,
    ),
    *(
        "null",
        "NaN",
        "1e400",
        "-1",
        "24h",
        "99999999999s",
        "batch",
        "batch_output",
        "created_at",
        CHAT,
        "/v1/completions",
    ),
    *("'; DROP TABLE files; --", "{{7*7}}", "%00", "%ff", "💥", "٣", "file-" + "0" * 24, "batch_" + "g" * 24),
]
NAMES = [
    "input_file_id",
    "endpoint",
    "completion_window",
    "metadata",
    "output_expires_after",
    "anchor",
    "seconds",
    "purpose",
]
PATHS = [
    "/",
    "//",
    "/v1",
    "/v1/files",
    "/v1/files/",
    "/v1/batches",
    "/v1/models",
    "/v1/models/",
    "/health",
    "/v1/%2e%2e/files",
]
CHARSETS = [
    "utf-8",
    "latin-1",
    "utf-16",
    "utf-7",
    "unicode_escape",
    "idna",
    "punycode",
    "hex",
    "rot13",
    "undefined",
    "x\0",
    "mbcs",
]
TYPES = [
    "multipart/form-data; boundary=b",
    "multipart/form-data",
    "application/json",
    "text/plain",
    "",
    "x",
    "multipart/mixed; boundary=b",
]


class Maker:
    """Makes requests, the same for the same seed."""

    def __init__(self, seed, known):
        self.random = random.Random(seed)
        self.known = known  # ids that there are

    def text(self):
        pick = self.random.random()
        if pick < 0.3:
            return self.random.choice(self.known)
        if pick < 0.9:
            return self.random.choice(TEXTS)
        return "".join(chr(self.random.randrange(0x11000)) for _ in range(self.random.randrange(20)))

    def value(self, depth=0):
        kind = self.random.randrange(9 if depth < 4 else 6)
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        if kind > 6:
            names = [self.random.choice(NAMES) if self.random.random() < 0.7 else self.text() for _ in range(5)]
            return {name: self.value(depth + 1) for name in names}
        plain = [None, True, self.random.randrange(-10, 10**6), 10**30, 0.5, self.text()]
        return plain[kind]

    def query(self):
        names = ["after", "limit", "order", "purpose", "x", "after[]"]
        values = [self.quoted(self.text()) for _ in range(self.random.randrange(4))]
        return "&".join(f"{self.random.choice(names)}={value}" for value in values)

    def quoted(self, text):
        raw = text.encode(errors="surrogatepass")
        return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02x}" for byte in raw)

    def path(self):
        path = self.random.choice(PATHS)
        if self.random.random() < 0.5:
            path = f"{path}/{self.quoted(self.text())}{self.random.choice(['', '/content', '/cancel', '/x'])}"
        return f"{path}?{self.query()}" if self.random.random() < 0.5 else path

    def body(self):
        pick = self.random.randrange(6)
        if pick == 0:
            return b""
        if pick == 1:
            return self.random.randbytes(self.random.randrange(50))
        if pick == 2:
            return self.random.choice(
                [b"[" * 5000, b'{"metadata":' * 5000, b"9" * 5000, b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}"]
            )
        values = self.value()
        if pick > 3:
            good = {"input_file_id": self.known[0], "endpoint": CHAT, "completion_window": "24h"}
            values = {**good, self.random.choice(NAMES): self.value()}
        return json.dumps(values).encode()

    def upload(self):
        fields = {
            self.random.choice(["purpose", "expires_after", "expires_after[seconds]", "x"]): "3600" for _ in "xx"
        }
        name = self.random.choice(TEXTS).encode(errors="surrogatepass").replace(b"\n", b"")
        made = bytearray(form(self.random.choice([b"", b"{}", requests(1)]), name, **fields))
        for _ in range(self.random.randrange(4)):
            at = self.random.randrange(len(made) + 1)
            made[at : at + self.random.randrange(8)] = self.random.choice(
                [b"", b"\r\n", b"--b", b'"', b"\0", b"\xff", b";"]
            )
        kind = self.random.choice(TYPES[:1] * 6 + TYPES)
        if self.random.random() < 0.4:
            kind += f"; charset={self.random.choice(CHARSETS)}"
        return bytes(made), kind


def checked(answer, folder):
    """The answer is one that a client understands, and tells nothing of the server."""
    assert answer.status < 500, answer.body
    assert str(folder).encode() not in answer.body
    if answer.status >= 400 and answer.body:
        error = answer.error
        assert error.keys() == {"message", "type", "param", "code"}
        assert all(isinstance(error[name], str) and error[name] for name in ("message", "type", "code"))
        answer.body.decode()


@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # starlette's, of a part without an end
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_asked_is_answered_and_lists_go_on(store, tmp_path, seed, capfd):
    with serving(store, tmp_path / "serve") as service:
        file_id = service.upload()
        known = [file_id, service.create(file_id), service.upload(b"\xff\0 no json")]
        maker = Maker(seed, known)
        for turn in range(250):
            if turn % 3:
                answer = service.ask(maker.random.choice(METHODS), maker.path(), maker.body())
            else:
                body, kind = maker.upload()
                answer = service.ask("POST", "/v1/files", body, **{"content-type": kind})
            checked(answer, tmp_path)
        for path in ("/v1/files", "/v1/batches?limit=100"):
            assert service.get(path)["object"] == "list"
        assert service.shelf.marked() == []
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    assert "could not be answered" not in said.err


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"custom_id":' * 10_000,
        rb'{"custom_id":"\ud800"}',
        b'{"custom_id":"r","body":{"messages":[{"role":"user","content":{"a":1}}]}}',
        b'{"custom_id":"r","method":"\x00"}',
        b"\xff\xfe",
        b"9" * 5000,
        b'{"custom_id":"r","url":{"a":[]},"body":{}}',
        b'{"custom_id":["r"],"method":7,"url":"/v1/chat/completions","body":[]}',
        b'{"custom_id":"r","url":"/v1/chat/completions","body":{"model":"m","messages":[],"seed":1e999}}',
        b'{"custom_id":"r","url":"/v1/chat/completions","body":{"model":{"a":1},"messages":"x"}}',
        b"",
        b"\r\n \r\n",
    ],
)
def test_a_file_that_is_no_batch_fails_its_batch_with_reasons(store, tmp_path, line, capfd):
    with serving(store, tmp_path / "serve") as service:
        batch = service.until(service.create(service.upload(line)), "failed")
        for error in batch["errors"]["data"]:
            assert error["message"]
            assert str(tmp_path) not in error["message"]
            assert error["code"] != "internal_error"
        assert service.get("/v1/batches")["data"] == [batch]
    assert "Traceback" not in capfd.readouterr().err
