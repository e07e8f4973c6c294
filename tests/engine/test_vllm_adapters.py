"""Several adapters in one batch of the engine over vLLM: each row's answer is that of an engine with its own."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from endmark.jobs.engines import EngineChoice
from endmark.jobs.errors import ModelError, SpecError
from endmark.jobs.prompts import PromptPlan
from endmark.jobs.spec import GenerationSpec
from endmark.worker.engine.request import Request
from endmark.worker.models.loader import load_engine
from endmark.worker.service.engines import load_chosen
from endmark.worker.service.prompting import Prompter
from tests.engine.test_adapters import LORA, network_of
from tests.engine.test_vllm_engine import PACKAGE
from tests.engine_contract import run
from tests.integration.tiny_model import save_tiny_model

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]
PROMPTS = [[1, 40, 50, 60], [1, 70, 80], [1, 41, 51, 61, 71]]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    """Three adapters of noise."""
    folders = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = get_peft_model(network_of(base), LoraConfig(**LORA))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        folders.append(str(tmp_path_factory.mktemp(f"adapter{seed}")))
        model.save_pretrained(folders[-1])
    return folders


@pytest.fixture
def several(base, monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE))
    choice = EngineChoice("vllm", max_adapters=2)
    return load_chosen(choice, str(base), device="cpu", weights="16bit", max_rows=8)


def request(key, adapter=None):
    return Request(key=key, prompt_token_ids=PROMPTS[key % 3], max_new_tokens=12, adapter=adapter)


def test_each_row_is_answered_under_its_own_adapter(base, adapters, several):
    """Of three adapters two fit at once, so that rows of the third wait."""
    assert several.engine.capacity.adapters == 2
    named = [None, *adapters]
    found = run(several.engine, [request(key, named[key % 4]) for key in range(12)])
    for place, adapter in enumerate(named):
        alone = load_engine(str(base), adapter=adapter, four_bits=False).engine
        keys = [key for key in range(12) if key % 4 == place]
        wanted = run(alone, [request(key) for key in keys])
        assert [found[key].token_ids for key in keys] == [wanted[key].token_ids for key in keys]
    assert len({found[key].token_ids for key in (0, 3, 6, 9)}) == 4, "the adapters tell"


def test_an_adapter_that_cannot_run_fails_its_row_and_no_engine(adapters, several, tmp_path):
    """vLLM loads an adapter in the middle of a step, and dies of one that it refuses."""
    engine = several.engine
    with pytest.raises(SpecError, match="cannot read"):
        engine.add(request(0, str(tmp_path / "absent")))
    copied = tmp_path / "wide"
    copied.mkdir()
    for path in Path(adapters[0]).iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    config = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps({**config, "rank_pattern": {"q_proj": 8}}))
    for _ in range(2):
        with pytest.raises(ModelError, match="other ranks in other layers"):
            engine.add(request(0, str(copied)))
    assert len(run(engine, [request(1, adapters[0])])) == 1


def test_an_engine_that_takes_one_adapter_says_so(base, adapters, several):
    """A row of a job is not answered by the base model where its worker has no room for its adapter."""
    spec = GenerationSpec(model=str(base))
    plan = PromptPlan(("prompt", "adapter"), spec)
    rows = [["Hi", adapters[0]], ["Hi", ""]]
    own, free = Prompter(several.tokenizer).read(plan, spec, rows)
    assert "`--engine vllm --max-adapters N` takes several" in own.error
    assert free.error is None
    taken = Prompter(several.tokenizer, adapters=several.engine.capacity.adapters).read(plan, spec, rows)
    assert [(item.error, item.spec.adapter) for item in taken] == [(None, adapters[0]), (None, None)]
    with pytest.raises(SpecError, match="no whole path of a folder") as caught:
        plan.read(["Hi", "my-adapter"])
    assert "--no-row-options" in caught.value.hint
