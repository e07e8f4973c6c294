"""Names of models: what is refused at once, and what it may have meant."""

import socket

import pytest

from endmark.jobs.errors import ModelError, SpecError
from endmark.jobs.hub import cached_models, check_model_name, is_hub_id
from endmark.worker.models.hub import reachable_source

pytestmark = pytest.mark.unit


@pytest.fixture
def environ(tmp_path, monkeypatch):
    for name in ("models--meta-llama--Llama-2-7b-chat-hf", "models--my-legacy-model", "datasets--a--b"):
        (tmp_path / "hub" / name).mkdir(parents=True)
    (tmp_path / "here" / "models" / "fine-llama").mkdir(parents=True)
    (tmp_path / "here" / "models" / "fine-llama" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "here")
    return {"HF_HOME": str(tmp_path)}


@pytest.mark.parametrize(
    "name", ["demo", "gpt2", "some/model", "HuggingFaceTB/SmolLM2-135M-Instruct", "my-legacy-model", "a/b_c.d-e1"]
)
def test_a_name_that_may_be_right_passes(environ, name):
    assert check_model_name(name, environ) is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("dmeo", "did you mean `demo`?"),
        ("Llama-2-7b", "a hub id is written `owner/name`"),
        ("models/x/y", "hub id"),
        ("meta-llama/Llama-2-7b-chat-hf/", "did you mean `meta-llama/Llama-2-7b-chat-hf`?"),
        ("meta-llama//Llama-2-7b-chat-hf", "did you mean `meta-llama/Llama-2-7b-chat-hf`?"),
        ("https://huggingface.co/some/model", "hub id"),
        ("some/mo del", "hub id"),
        ("some/model.git", "hub id"),
        ("some/-model", "hub id"),
        ("some/model..x", "hub id"),
        ("", "hub id"),
        ("x/" + "y" * 95, "hub id"),
    ],
)
def test_a_name_that_cannot_be_right_is_refused_with_the_near_ones(environ, name, hint):
    with pytest.raises(SpecError, match="is neither a folder nor the id of a model") as caught:
        check_model_name(name, environ)
    assert hint in caught.value.hint


def test_a_name_like_one_that_is_here_is_doubted(environ):
    assert "did you mean `meta-llama/Llama-2-7b-chat-hf`?" in check_model_name(
        "meta-lama/Llama-2-7b-chat-hf", environ
    )
    assert "did you mean `models/fine-llama`?" in check_model_name("models/fine-lama", environ)
    assert check_model_name("meta-llama/Llama-2-7b-chat-hf", environ) is None


def test_the_cache_is_where_the_hub_library_has_it(environ, tmp_path):
    assert cached_models(environ) == ["meta-llama/Llama-2-7b-chat-hf", "my-legacy-model"]
    assert cached_models({"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": "/none"}) == cached_models(environ)
    assert cached_models({"HF_HOME": "/none"}) == []


@pytest.mark.parametrize("name", ["a/b", "A-1/b.c_d", "a/b--c", "a/b/c", "a", "a/", "a/.b", "ä/b", "a/b-"])
def test_ids_are_those_of_the_hub_library(name):
    """Checked against huggingface_hub's own check, but for names without an owner."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
        valid = "/" in name
    except HFValidationError:
        valid = False
    assert is_hub_id(name) == valid


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub at which nobody listens until `listen` is called; a copy of `some/model` is on this host."""
    folder = tmp_path / "models--some--model"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "config.json").write_text("{}")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


def test_without_a_network_the_copy_on_this_host_is_taken(hub, tmp_path):
    """On a node without a network a model that was there took three minutes to load, another 70 s to fail."""
    assert reachable_source("some/model") == str(tmp_path / "models--some--model" / "snapshots" / "abc")
    for absent in ("other/model", "gpt2"):
        with pytest.raises(ModelError, match=f"`{absent}` is not on this machine, and http://127.0.0.1:.*refused"):
            reachable_source(absent)
    assert reachable_source(str(tmp_path)) == str(tmp_path)


def test_a_hub_that_listens_is_asked(hub):
    hub.listen()
    assert reachable_source("some/model") == "some/model"
    assert reachable_source("other/model") == "other/model"


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "http_proxy"])
def test_who_is_offline_or_has_a_proxy_is_not_asked_for_a_connection(hub, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert reachable_source("some/model") == "some/model"
