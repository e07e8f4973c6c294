"""docker-compose.yml and the Dockerfile against the settings and the command line that they name."""

import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path

import click
import pytest
import yaml
from sqlalchemy import make_url

from endmark.cli.main import endmark
from endmark.cli.serve.command import OPERATOR_TOKENS, TOKENS
from endmark.jobs.broker.address import parse_address
from endmark.jobs.settings import Settings

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("endmark:")}


class Recorded(Mapping):
    """An environment that remembers which names were asked for."""

    def __init__(self, values):
        self.values_of, self.asked = values, set()

    def __getitem__(self, name):
        self.asked.add(name)
        return self.values_of[name]

    def __iter__(self):
        return iter(self.values_of)

    def __len__(self):
        return len(self.values_of)


def filled(text):
    """A value with its variables as a user would set them."""
    text = re.sub(r"\$\{ENDMARK_PASSWORD:\?[^}]*\}", "secret", text)
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    assert "$" not in text
    return text


def test_the_settings_read_what_compose_sets(tmp_path):
    for name, service in OURS.items():
        values = {key: filled(value) for key, value in service["environment"].items()}
        environ = Recorded({**values, "ENDMARK_HOME": str(tmp_path / name)})
        settings = Settings.load(environ)
        assert {key for key in values if key.startswith("ENDMARK_")} <= environ.asked | {TOKENS, OPERATOR_TOKENS}
        database, broker = make_url(settings.database_url), parse_address(settings.broker_url)
        postgres = SERVICES[database.host]["environment"]
        assert (database.username, database.database) == (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"])
        assert database.password == filled(postgres["POSTGRES_PASSWORD"]) == "secret"
        assert (broker.password, broker.port) == ("secret", 6379)
        assert f"--requirepass {broker.password}" in filled(SERVICES[broker.host]["command"])


def test_the_image_has_the_version_of_the_package():
    assert {service["image"] for service in OURS.values()} == {f"endmark:{VERSION}"}


def test_every_command_is_one_of_the_command_line():
    for service in OURS.values():
        words = shlex.split(filled(service["command"]))
        command = endmark
        while isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words.pop(0))
        # Raises where an option or a value is wrong. A command keeps the names of its help as it is first asked.
        command.make_context("endmark", words, help_option_names=["-h", "--help"])


def test_the_broker_keeps_every_message():
    words = shlex.split(filled(SERVICES["broker"]["command"]))
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert any(volume.endswith(":/data") for volume in SERVICES["broker"]["volumes"])


def test_each_gpu_has_one_worker_of_its_own():
    pinned = {}
    for name, service in OURS.items():
        for device in service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", ()):
            assert "gpu" in device["capabilities"]
            assert service["command"].startswith("worker ")
            pinned[name] = device["device_ids"]
    assert sorted(pinned.values()) == [["0"], ["1"]]


def test_services_wait_for_what_they_need_and_are_looked_after():
    assert SERVICES["migrate"]["command"] == "db upgrade"
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name, service in SERVICES.items():
        if name.startswith("worker"):
            assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
            assert service["depends_on"]["broker"]["condition"] == "service_healthy"
            port = re.search(r"--metrics-port (\d+)", service["command"])[1]
            assert f"127.0.0.1:{port}/metrics" in service["healthcheck"]["test"][-1]
        assert "ports" not in service or all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in COMPOSE["volumes"]
    for name in ("broker", "postgres", "worker-gpu0", "worker-gpu1", "worker-cpu", "serve"):
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_the_image_is_built_in_stages_and_run_by_a_user_of_its_own():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert [word for word, _ in lines].count("FROM") == 2
    last = lines[max(index for index, (word, _) in enumerate(lines) if word == "FROM") :]
    said = dict(last)
    assert said["USER"] == "endmark"
    assert said["ENTRYPOINT"] == '["endmark"]'
    copied = {rest.split()[-1] for word, rest in lines if word == "COPY"}
    rooms = {item.name for item in (ROOT / "endmark").iterdir() if item.is_symlink()}
    assert {*rooms, "endmark"} <= copied  # a room that is not there is missing from the wheel, without a word
    home = OURS["migrate"]["environment"]["ENDMARK_HOME"]
    assert f"ENDMARK_HOME={home} " in text
    assert re.search(rf"install -d -o endmark .*{home}", text)
