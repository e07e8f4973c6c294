"""What tests of kernels share."""

import os

import pytest

from tests.engine.conftest import CONFIGS

if os.environ.get("TRITON_INTERPRET") == "1":
    from tests.gpu import interpreter

    interpreter.replace_language_once()


@pytest.fixture
def rotary_stays(monkeypatch):
    """Else a rotation that was put off stays so in transformers' module, for all other tests."""
    for config in CONFIGS.values():
        source = f"transformers.models.{config.model_type}.modeling_{config.model_type}"
        module = __import__(source, fromlist=["x"])
        monkeypatch.setattr(module, "apply_rotary_pos_emb", module.apply_rotary_pos_emb)
