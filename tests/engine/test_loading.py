"""What a model's files say is believed only where the model can do it: end tokens, tokens of prompts."""

import json
import logging
from types import SimpleNamespace

import pytest

from endmark.jobs.errors import ModelError, TokenUnknown
from endmark.jobs.landing import tabulate
from endmark.worker.engine.request import Request
from endmark.worker.engine.text import Vocabulary
from endmark.worker.models.building import fitting_rows, sentence_table
from endmark.worker.models.end_tokens import end_token_ids
from endmark.worker.models.loader import load_engine
from tests.integration.tiny_model import save_tiny_model

# transformers itself still sets an option that it calls deprecated
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]
TOKENS = 258  # of the tiny model


def change(folder, file, **values):
    found = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**found, **values}))


def named(*ids):
    return [SimpleNamespace(eos_token_id=item) for item in ids]


@pytest.mark.parametrize(
    ("ids", "found"),
    [([1], {1}), ([[1, 9]], {1, 9}), ([None, 5, [9]], {5, 9}), ([[1, 10, 99999]], {1}), ([-1, 3], {3})],
)
def test_end_tokens_are_all_that_are_named_and_have_scores(ids, found):
    assert end_token_ids(*named(*ids), vocabulary=10) == found


def test_end_tokens_without_scores_are_named(caplog):
    """The first step ended in an IndexError, and the worker restarted every 90 s for ever."""
    with caplog.at_level(logging.WARNING):
        end_token_ids(*named([1, 12, 10], 99999, 9), vocabulary=10)
    assert "left out: 10, 12, 99999 (it has 10 tokens)" in caplog.text
    caplog.clear()
    end_token_ids(*named(9), vocabulary=10)
    assert not caplog.text
    with pytest.raises(ModelError, match="no end token that it has scores for: 10, 99999 and its 10 tokens"):
        end_token_ids(*named([10], 99999), vocabulary=10)
    with pytest.raises(ModelError, match="names no end token"):
        end_token_ids(*named(None, []), vocabulary=10)


@pytest.mark.parametrize("value", [[[1]], ["one"], "one", 1j])
def test_an_end_token_that_is_no_id_is_told(value):
    """It was an error that nobody had foreseen; and the text "12" was the tokens 1 and 2."""
    with pytest.raises(ModelError, match=r"the model's eos_token_id is .*, and no token's id"):
        end_token_ids(*named(value), vocabulary=20)
    assert end_token_ids(*named("12"), vocabulary=20) == {12}


DAMAGED = {  # a file, what it holds then, and what is said of it
    "a list as a config": (
        "config.json",
        b"[]",
        "cannot read the config.json of .*: it is no JSON object",
    ),
    "a list as a generation config": (
        "generation_config.json",
        b"[1]",
        "cannot read the generation_config.json of .*: it is no JSON object",
    ),
    "a tokeniser's config cut short": (
        "tokenizer_config.json",
        b'{"chat_tem',
        "cannot read the tokenizer_config.json of",
    ),
    "an index without its map": (
        "model.safetensors.index.json",
        b'{"metadata": {}}',
        "cannot read the model.safetensors.index.json of .*: it has no `weight_map`",
    ),
    "no heads": (
        "config.json",
        b'{"model_type": "llama", "num_attention_heads": 0}',
        "cannot read the config.json of",
    ),
    "no JSON": ("config.json", b"{", "cannot read the config.json of"),
    "another file as a tokeniser": ("tokenizer.json", b'{"version": "1.0"}', "cannot load the tokeniser of"),
    "weights cut short": ("model.safetensors", b"\0" * 100, r"model.safetensors` is damaged"),
    "a pointer": ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
}


@pytest.mark.parametrize(("file", "data", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named(tmp_path, file, data, said):
    """Errors of transformers came as they were: a KeyError of `added_tokens`, a division by zero."""
    save_tiny_model(tmp_path)
    (tmp_path / file).write_bytes(data)
    with pytest.raises(ModelError, match=said) as caught:
        load_engine(str(tmp_path))
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_config_that_nobody_knows_is_not_told_as_missing_weights(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    change(folder, "config.json", rope_parameters={"rope_type": "florble", "rope_theta": 1e4})
    with pytest.raises(ModelError, match="cannot load the model") as caught:
        load_engine(str(folder), device="cpu")
    assert "compare its config.json" in caught.value.hint


def test_weights_in_a_pickle_are_told_as_such(tmp_path):
    save_tiny_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError) as caught:
        load_engine(str(tmp_path))
    assert "`.bin` files, which run code when they are read" in caught.value.hint


def test_a_model_with_an_end_token_beyond_its_vocabulary_runs(tmp_path, caplog):
    save_tiny_model(tmp_path)
    change(tmp_path, "generation_config.json", eos_token_id=[0, TOKENS])
    engine = load_engine(str(tmp_path)).engine
    assert engine.eos_ids == {0}
    assert str(TOKENS) in caplog.text
    engine.add(Request(key=1, prompt_token_ids=[5, 6], max_new_tokens=3))
    assert [finished.key for _ in range(3) for finished in engine.step()] == [1]


def test_a_worker_logs_what_its_start_took(tmp_path, caplog):
    save_tiny_model(tmp_path)
    with caplog.at_level(logging.INFO):
        load_engine(str(tmp_path))
    [line] = [record.getMessage() for record in caplog.records if "loading took" in record.getMessage()]
    parts = [part.rsplit(" ", 2)[0] for part in line.removeprefix("loading took: ").split(", ")]
    assert parts == ["tokeniser", "files", "weights", "vocabulary", "runner"]


def test_a_token_that_the_tokeniser_adds_to_the_model_fails_its_row(tmp_path):
    save_tiny_model(tmp_path)
    loaded = load_engine(str(tmp_path))
    loaded.tokenizer.add_special_tokens({"additional_special_tokens": ["[PAD]"]})
    loaded.tokenizer.save_pretrained(tmp_path)
    loaded = load_engine(str(tmp_path))
    assert loaded.tokenizer("[PAD]")["input_ids"] == [TOKENS]
    with pytest.raises(
        TokenUnknown, match=rf"the token {TOKENS} `\[PAD\]`, and the model's embedding ends at 257"
    ):
        loaded.engine.add(Request(key=1, prompt_token_ids=[5, TOKENS], max_new_tokens=3))
    loaded.engine.add(Request(key=1, prompt_token_ids=[5, TOKENS - 1], max_new_tokens=3))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_sentence_table_is_as_wide_as_the_scores(size):
    """A tokeniser may know fewer tokens than the model, or more: the kernel reads rows of the scores' width."""
    known = [b"a", b". ", b"!"]
    table = sentence_table(Vocabulary(known), size)
    wanted = tabulate([*known[:size], *[b""] * (size - len(known))])
    assert table.tolist() == [list(row) for row in wanted]


@pytest.mark.parametrize(
    ("tokens", "rows"),
    [
        (0, 256),  # what is too small for them all has rows wait, as ever
        (256 * 512, 256),
        (450_000, 832),  # an 8B model with 8 KV heads on a card of 80 GB
        (1_000_000, 1024),
    ],
)
def test_rows_at_once_by_the_memory_that_is_left(tokens, rows):
    """256 rows whatever the card held cost 6 to 8 % of an 8B model's speed on a card of 80 GB."""
    assert fitting_rows(tokens, 256) == rows


def test_a_processor_has_the_rows_that_suit_it():
    assert load_engine("demo").engine.capacity.rows == 64
