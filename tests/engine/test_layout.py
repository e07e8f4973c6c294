"""Names of the device's numbers lead to the same places for staging, tensors and kernels."""

import pytest
import torch

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import build_strategies, score_numbers
from endmark.worker.engine.layout import RESULT, SCORES, SLOT, STEP, Layout
from endmark.worker.engine.plan import PrefillRow
from endmark.worker.engine.sampler import Draw, stream_key
from endmark.worker.engine.slot_record import slot_record

pytestmark = pytest.mark.engine


def test_every_number_has_a_place_of_its_own():
    for layout in (SCORES, SLOT, STEP, RESULT):
        assert [layout[name] for name in layout] == list(range(layout.width))
    with pytest.raises(ValueError, match="same name"):
        Layout(whole=["a"], real=["a"])


def test_what_is_packed_is_read_back_in_its_type():
    layout = Layout(whole=["key", "count"], real=["share"])
    record = torch.from_numpy(layout.pack({"share": 0.1, "key": 2**32 - 2}))
    assert layout.of(record, "share") == torch.tensor(0.1)
    assert (layout.of(record, "key"), layout.of(record, "count")) == (-2, 0)
    layout.of(record, "share").fill_(0.5)
    assert layout.of(record.unsqueeze(0), "share").tolist() == [0.5]


def test_a_name_that_no_layout_has_is_refused():
    with pytest.raises(KeyError, match="warmth"):
        SLOT.pack({"warmth": 1.0})


def test_a_row_is_recorded_as_it_is_asked_for():
    numbers = score_numbers(build_strategies(["eos-reward:start=0.5"]), 100)
    sampling = Sampling(0.7, top_k=20, top_p=0.8, seed=3)
    row = PrefillRow(1, [5], 0, [0], 0, 0, sampling=sampling, numbers=numbers, stream=9, sentence_state=4)
    records = torch.from_numpy(slot_record(row)).unsqueeze(0)
    draw = Draw.of(records, torch.tensor([7]))
    assert (draw.temperature, draw.top_p) == (torch.tensor(0.7), torch.tensor(0.8))
    assert (draw.top_k, draw.key, draw.position) == (20, stream_key(3, 9), 7)
    found = {name: SLOT.of(records, name).item() for name in ("landing", "shaped", "last", "start", "force_at")}
    assert found == {"landing": 4, "shaped": 1, "last": 0, "start": 50.0, "force_at": 99.0}
