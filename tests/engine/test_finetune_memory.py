"""Memory that a training spends on speed: plain weights, activations kept; what is learned is the same."""

import weakref

import pytest
import torch

from endmark.jobs.finetuning.chats import Chat
from endmark.jobs.finetuning.request import FinetuneSpec
from endmark.worker.engine.four_bits import Linear4bit
from endmark.worker.finetune import evaluation, training
from endmark.worker.finetune.batches import Collator
from endmark.worker.finetune.labels import Labelled
from endmark.worker.finetune.memory import kept_bytes, use_room
from endmark.worker.finetune.training import build_trainer
from endmark.worker.models.loader import load_engine, load_model, load_tokenizer
from tests.integration.tiny_model import save_tiny_model

# transformers and TRL themselves still use options that transformers calls deprecated
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]
EXAMPLES = [Labelled(tuple(range(3, 3 + length)), tuple(range(3, 3 + length)), 1, False) for length in (8, 16, 12)]
LONGEST = {"input_ids": EXAMPLES[1].token_ids, "labels": EXAMPLES[1].labels}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("base")))


@pytest.fixture
def trainer(base, tmp_path, monkeypatch):
    """A trainer that has been given no room yet, and would compute activations twice."""
    monkeypatch.setattr(training, "use_room", lambda *_, **__: None)
    spec = FinetuneSpec(dataset="-", output=str(tmp_path), model=base, batch_size=2, rank=4, dropout=0.0)
    torch.manual_seed(1)
    made = build_trainer(
        load_model(base, device="cpu"), load_tokenizer(base), EXAMPLES, spec, device="cpu", report=print
    )
    made.args.gradient_checkpointing = True
    return made


def batch_of(*examples):
    return Collator(0)([{"input_ids": item.token_ids, "labels": item.labels} for item in examples])


def packed_in(network):
    return sum(isinstance(module, Linear4bit) for module in network.modules())


def gradients(network):
    network.zero_grad()
    network(**batch_of(*EXAMPLES), use_cache=False).loss.backward()
    return {name: item.grad.clone() for name, item in network.named_parameters() if item.grad is not None}


def test_with_room_weights_are_plain_activations_kept_and_gradients_the_same(trainer):
    before, packed = gradients(trainer.model), packed_in(trainer.model)
    assert packed
    use_room(trainer, LONGEST, batch_size=2, room=1e12)
    assert packed_in(trainer.model) == 0
    assert not trainer.args.gradient_checkpointing
    after = gradients(trainer.model)
    assert after.keys() == before.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, rtol=1e-4, atol=1e-6)


def test_without_room_all_stays_as_it_was(trainer):
    packed = packed_in(trainer.model)
    longest = kept_bytes(trainer.model, batch_of(EXAMPLES[1]))
    use_room(trainer, LONGEST, batch_size=2, room=2 * longest - 1)
    assert packed_in(trainer.model) == packed
    assert trainer.args.gradient_checkpointing


def test_activations_come_before_weights(trainer):
    packed = packed_in(trainer.model)
    longest = kept_bytes(trainer.model, batch_of(EXAMPLES[1]))
    use_room(trainer, LONGEST, batch_size=2, room=2 * longest)
    assert not trainer.args.gradient_checkpointing
    assert packed_in(trainer.model) == packed


def test_what_a_pass_keeps_grows_with_its_tokens(trainer):
    short, long = (kept_bytes(trainer.model, batch_of(EXAMPLES[at])) for at in (0, 1))
    assert 1.5 * short < long < 4 * short
    with torch.no_grad():
        assert kept_bytes(trainer.model, batch_of(EXAMPLES[0])) == 0


def test_the_engine_of_the_evaluation_is_gone_before_the_training_begins(base, monkeypatch):
    """On an H200 its cache stood beside the training: 45 GB at the peak, and 6.4 where that was small."""
    seen = []

    def load(*args, **options):
        loaded = load_engine(*args, **options)
        loaded.runner.engine = loaded.engine  # a circle, as a runner of captured graphs has some
        seen.append(weakref.ref(loaded.engine))
        return loaded

    monkeypatch.setattr(evaluation, "load_engine", load)
    chat = Chat(({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}), 1)
    spec = FinetuneSpec(dataset="-", output="-", model=base, max_new_tokens=4)
    found = evaluation.held_out_endings(spec, [chat], adapter=None, device="cpu")
    assert found.prompts == 1
    assert [engine() for engine in seen] == [None]
