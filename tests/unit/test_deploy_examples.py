"""examples/deploy against the settings, the command line and the time that a drain needs."""

import re
import shlex
import shutil
import subprocess
import tomllib
from configparser import RawConfigParser
from pathlib import Path

import click
import pytest
import yaml

from endmark.cli.main import endmark
from endmark.cli.serve.command import OPERATOR_TOKENS, TOKENS
from endmark.jobs.delivery.keys import SECRET
from endmark.jobs.settings import Settings
from endmark.worker.service.service import Pace

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
UNITS = sorted((ROOT / "examples" / "deploy" / "systemd").iterdir())
OBJECTS = list(yaml.safe_load_all((ROOT / "examples" / "deploy" / "kubernetes" / "endmark.yaml").read_text()))
KNOWN = {"ENDMARK_HOME", "ENDMARK_DATABASE_URL", "ENDMARK_BROKER_URL", TOKENS, OPERATOR_TOKENS, SECRET}
_ENDING = 25.0  # seconds for the last rows to be stored and connections to be closed, after a grace


class Unit(RawConfigParser):
    """A unit file; of a name that stands twice the last one counts."""

    def __init__(self, path):
        super().__init__(strict=False, interpolation=None)
        self.optionxform = str
        self.read_string(path.read_text())


def checked(words):
    """Parse the words as the command line does; return the command's name and its values."""
    command, name = endmark, ""
    words = list(words)
    while isinstance(command, click.Group):
        name = words.pop(0)
        command = command.get_command(click.Context(command), name)
    # A command keeps the names of its help that it is first asked with, for docs/commands.md too.
    return name, command.make_context("endmark", words, help_option_names=["-h", "--help"]).params


def pods():
    """The pod of each object that has one, by the object's name."""
    for item in OBJECTS:
        spec = item.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield item["metadata"]["name"], spec["template"]["spec"]


@pytest.mark.parametrize("path", [path for path in UNITS if path.suffix == ".service"], ids=lambda path: path.name)
def test_a_unit_runs_a_command_with_what_the_settings_read(path):
    service = Unit(path)["Service"]
    program, *words = shlex.split(service["ExecStart"].replace("${ENDMARK_MODEL}", "some/model"))
    assert program == "/opt/endmark/bin/endmark"
    name, values = checked(words)
    assert (service["User"], name in ("worker", "serve", "prune")) == ("endmark", True)
    assert set(re.findall(r"(ENDMARK_\w+)=", service["Environment"])) <= KNOWN
    if name == "worker":
        assert float(service["TimeoutStopSec"]) >= values["grace"] + Pace().flush + _ENDING
        assert service["KillMode"] == "mixed"  # a second SIGTERM would end the grace
    if name == "prune":
        assert values["yes"]  # nobody is there to be asked


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    for path in UNITS:
        text = (
            path.read_text().replace("/opt/endmark/bin/endmark", shutil.which("true")).replace("User=endmark", "")
        )
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(tmp_path.iterdir())], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if str(tmp_path) in line or "endmark-" in line] == []
    assert done.returncode == 0, done.stderr


def test_each_container_runs_a_command_and_takes_its_settings_from_the_secret(tmp_path):
    (secret,) = [item for item in OBJECTS if item["kind"] == "Secret"]
    assert set(secret["stringData"]) <= KNOWN
    assert Settings.load({**secret["stringData"], "ENDMARK_HOME": str(tmp_path)}).broker_url.startswith("redis://")
    found = {}
    for name, pod in pods():
        (container,) = pod["containers"]
        found[name] = (*checked(container["args"]), pod, container)
        assert container["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
        assert container["image"] == f"endmark:{VERSION}"
        assert pod["securityContext"]["runAsUser"] == 10001
        assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert {name: words[0] for name, words in found.items()} == {
        "endmark-migrate": "upgrade",
        "endmark-worker": "worker",
        "endmark-serve": "serve",
        "endmark-prune": "prune",
    }
    (migrate,) = [item for item in OBJECTS if item["metadata"]["name"] == "endmark-migrate"]
    assert migrate["spec"]["ttlSecondsAfterFinished"]  # a Job cannot be changed by an upgrade
    _, values, pod, _ = found["endmark-worker"]
    assert pod["terminationGracePeriodSeconds"] >= values["grace"] + Pace().flush + _ENDING
    assert found["endmark-prune"][1]["yes"]
    assert found["endmark-serve"][3]["readinessProbe"]["httpGet"]["path"] == "/health"


def test_volumes_and_selectors_name_what_is_there():
    claims = {item["metadata"]["name"] for item in OBJECTS if item["kind"] == "PersistentVolumeClaim"}
    for _, pod in pods():
        assert {item["persistentVolumeClaim"]["claimName"] for item in pod.get("volumes", ())} <= claims
    for item in OBJECTS:
        if item["kind"] in ("Deployment", "StatefulSet"):
            assert item["spec"]["selector"]["matchLabels"] == item["spec"]["template"]["metadata"]["labels"]
