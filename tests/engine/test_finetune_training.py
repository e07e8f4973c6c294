"""Training on a tiny model: packed examples keep apart, and a killed run goes on as if nothing had been."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from endmark.jobs.finetuning.request import FinetuneSpec
from endmark.worker.finetune.batches import Collator
from endmark.worker.finetune.evaluation import held_out_perplexity
from endmark.worker.finetune.labels import IGNORED, Labeller, pack
from endmark.worker.finetune.training import build_trainer, check_eos, last_checkpoint, train
from endmark.worker.models.loader import load_model, load_tokenizer
from tests.integration.tiny_model import save_tiny_model

# transformers and TRL themselves still use options that transformers calls deprecated
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]
CHATS = [
    [{"role": "user", "content": f"Question {n}"}, {"role": "assistant", "content": "Answer." * (1 + n % 3)}]
    for n in range(12)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("base")))


def examples_of(base, max_length=64):
    labeller = Labeller(load_tokenizer(base), {0}, max_length)
    return [labeller.label(turns) for turns in CHATS]


def test_packed_examples_do_not_see_each_other(base):
    network = load_model(base, device="cpu")
    network.set_attn_implementation("sdpa")
    examples = examples_of(base)
    blocks = pack(examples, 128)
    assert max(len(block.lengths) for block in blocks) > 1

    def loss(records):
        batch = Collator(0)(records)
        labels = batch.pop("labels")[:, 1:]
        with torch.no_grad():
            logits = network(**batch, use_cache=False).logits[:, :-1]
        kept = labels != IGNORED
        return torch.nn.functional.cross_entropy(logits[kept], labels[kept], reduction="sum")

    alone = sum(loss([{"input_ids": item.token_ids, "labels": item.labels}]) for item in examples)
    padded = loss([{"input_ids": item.token_ids, "labels": item.labels} for item in examples])
    packed = loss([{"input_ids": b.token_ids, "labels": b.labels, "lengths": b.lengths} for b in blocks])
    torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-3)
    tokens = sum(label != IGNORED for item in examples for label in item.labels)
    perplexity = held_out_perplexity(network, examples, {0}, batch_size=5)
    assert perplexity.with_eos == pytest.approx(math.exp(float(alone) / tokens), rel=1e-4)
    assert perplexity.answers != pytest.approx(perplexity.with_eos, rel=1e-4)


class Killed(Exception):
    """Stands for SIGKILL at a step."""


@pytest.mark.parametrize("packing", [False, True])
def test_a_killed_run_goes_on_and_comes_to_the_same(base, tmp_path, packing):
    spec = FinetuneSpec(
        dataset="-",
        output=str(tmp_path / "whole"),
        steps=6,
        save_every=2,
        batch_size=2,
        rank=4,
        learning_rate=0.01,
        max_length=64,
        packing=packing,
        dropout=0.1,
        seed=5,
    )

    def run(spec, kill_at=None):
        seen = []

        def report(progress):
            seen.append(progress)
            if progress.step == kill_at:
                raise Killed

        tokenizer = load_tokenizer(base)
        trainer = build_trainer(
            load_model(base, device="cpu"), tokenizer, examples_of(base), spec, device="cpu", report=report
        )
        assert check_eos(trainer, {0}) == "EOS is in the labels of 12 of 12 examples (100.0 %)"
        train(trainer, spec)
        trainer.model.save_pretrained(spec.output)
        return seen

    seen = run(spec)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert all(progress.loss > 0 for progress in seen[1:])
    assert seen[-1].seconds_left == 0

    halved = replace(spec, output=str(tmp_path / "halved"))
    with pytest.raises(Killed):
        run(halved, kill_at=5)
    half_written = tmp_path / "halved" / "checkpoints" / "checkpoint-5"
    half_written.mkdir()
    (half_written / "trainer_state.json").write_text('{"global_step": 5, ')
    assert last_checkpoint(tmp_path / "halved").endswith("checkpoint-4")
    assert not half_written.exists()
    assert [progress.step for progress in run(halved)] == [5, 6]
    assert run(halved) == []  # killed behind the last step

    whole = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    again = load_file(tmp_path / "halved" / "adapter_model.safetensors")
    assert {item.dtype for item in whole.values()} == {torch.float32}
    for name, tensor in whole.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-6)
