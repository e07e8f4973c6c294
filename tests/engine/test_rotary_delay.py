"""The rotation is put off to the cache's kernel only where nothing stands between it and the attention."""

import pytest
import torch
from transformers import AutoModelForCausalLM, HunYuanDenseV1Config

from tests.engine.conftest import SHAPE, build_model

pytest.importorskip("triton", reason="Triton is for Linux alone")

from endmark.worker.engine.cuda.fusion import _delay_rotary

pytestmark = pytest.mark.engine


def test_common_blocks_put_it_off_and_a_norm_behind_it_forbids_it(architecture, monkeypatch):
    """Hunyuan norms queries and keys after their rotation: put off, it would have come after those norms."""
    model = build_model(architecture)
    source = type(model.model.layers[0].self_attn).__module__
    monkeypatch.setattr(f"{source}.apply_rotary_pos_emb", __import__(source, fromlist=["x"]).apply_rotary_pos_emb)
    assert _delay_rotary(model) is not None
    torch.manual_seed(7)
    assert _delay_rotary(AutoModelForCausalLM.from_config(HunYuanDenseV1Config(**SHAPE, head_dim=16))) is None
