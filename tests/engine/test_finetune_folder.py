"""The folder of a fine-tuning: one process at a time, a full disk told as such, each held-out prompt once."""

import errno
import json
import subprocess
import sys

import pytest

from endmark.jobs.errors import DatasetError, SpecError
from endmark.jobs.finetuning.chats import Chat
from endmark.jobs.finetuning.request import FinetuneSpec
from endmark.jobs.prompts import Turn
from endmark.worker.finetune.holding import LOCK, disk_error, held
from endmark.worker.finetune.labels import Labeller
from endmark.worker.finetune.run import _labelled, _split
from tests.engine.test_finetune_labels import CHATML, HI, tokenizer_of

pytestmark = pytest.mark.engine
HOLDER = "import sys, pathlib\nfrom endmark.worker.finetune.holding import held\n"
HOLDER += (
    "with held(pathlib.Path(sys.argv[1]), lambda: None):\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


def test_a_second_process_is_refused_and_the_death_of_the_first_lets_go(tmp_path):
    """Two commands on one folder once trained side by side, each writing over the other's checkpoints."""
    folder = tmp_path / "adapter"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout.readline() == "held\n"
        said = []
        with (
            pytest.raises(SpecError, match="another process trains into"),
            held(folder, lambda: said.append(1), patience=0.5),
        ):
            pass
        assert said == [1]
        first.kill()
    assert (folder / LOCK).exists()  # left by the dead, and of no force
    with held(folder, lambda: said.append(2)):
        assert (folder / LOCK).exists()
    assert said == [1]
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told_with_the_fix(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot write to the folder") as caught, held(tmp_path / "file", print):
        pass
    assert "-o" in caught.value.hint


def test_a_full_disk_is_told_as_such(tmp_path):
    found = disk_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    assert "is full" in str(found)
    assert "goes on from the last checkpoint" in found.hint
    assert disk_error(RuntimeError("a defect"), tmp_path) is None


def chat(prompt, answer="Yes."):
    return Chat((Turn(role="user", content=prompt), Turn(role="assistant", content=answer)), 1)


def test_a_prompt_is_held_out_once_and_never_learned_from():
    """A prompt that the dataset asks nine times once stood several times among those held out."""
    chats = [chat("often", str(n)) for n in range(50)] + [chat(f"question {n}") for n in range(10)]
    for seed in range(20):
        split = _split(chats, FinetuneSpec(dataset="-", output="-", seed=seed))
        held_out = [json.dumps(item.turns[:-1]) for item in split.held_out]
        assert len(held_out) == len(set(held_out)) == 2  # a fifth of eleven
        assert not {json.dumps(item.turns[:-1]) for item in split.train} & set(held_out)
    with pytest.raises(SpecError, match="too few different prompts"):
        _split(chats[:50], FinetuneSpec(dataset="-", output="-"))


def test_a_chat_with_a_token_that_the_model_has_not_is_named_by_its_line():
    """A tokeniser extended without the model ended the training in an IndexError, on a GPU with its process."""
    tokenizer, spec = tokenizer_of(CHATML), FinetuneSpec(dataset="d.jsonl", output="-")
    (whole,) = _labelled(Labeller(tokenizer, {0}, 100), [Chat(tuple(HI), 7)], spec)
    highest = max(whole.token_ids)
    assert _labelled(Labeller(tokenizer, {0}, 100, embeddings=highest + 1), [Chat(tuple(HI), 7)], spec) == [whole]
    with pytest.raises(DatasetError, match=rf"d\.jsonl:7: the example holds the token {highest} `.+`, and"):
        _labelled(Labeller(tokenizer, {0}, 100, embeddings=highest), [Chat(tuple(HI), 7)], spec)


def test_a_chat_that_the_template_refuses_is_named_by_its_line():
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    labeller = Labeller(tokenizer_of(refuses), {0}, 100)
    turns = ({"role": "system", "content": "Be kind."}, *HI)
    with pytest.raises(DatasetError, match=r"d\.jsonl:7: the model's chat template refuses it: no system turn"):
        _labelled(labeller, [Chat(turns, 7)], FinetuneSpec(dataset="d.jsonl", output="-"))
