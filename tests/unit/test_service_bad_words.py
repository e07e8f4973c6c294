"""Texts that an answer may not hold, as token sequences."""

import pytest

from endmark.jobs.prompts import PromptPlan
from endmark.jobs.sampling import Sampling
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import StoredRow
from endmark.worker.service.bad_words import BadWords
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.rows import RowRun
from tests.unit.byte_tokenizer import ByteTokenizer

pytestmark = pytest.mark.unit


class Counted(ByteTokenizer):
    """Counts its calls."""

    calls = 0

    def __call__(self, *args, **options):
        self.calls += 1
        return super().__call__(*args, **options)


def test_a_text_is_excluded_as_it_begins_and_behind_a_space():
    tokenizer = Counted()
    words = BadWords(tokenizer)
    ids = tokenizer(["ab", " ab", "c", " c"], add_special_tokens=False, verbose=False)["input_ids"]
    assert words.sequences(("ab", " c")) == (tuple(ids[0]), tuple(ids[1]), tuple(ids[3]))
    before = tokenizer.calls
    assert words.sequences(("ab", " c")) == words.sequences(("ab", " c"))
    assert tokenizer.calls == before


def test_they_reach_the_engine_with_the_row():
    spec = GenerationSpec(sampling=Sampling(bad_words=("ab",)), raw=True)
    prompter = Prompter(ByteTokenizer())
    (prompt,) = prompter.read(PromptPlan(("prompt",), spec), spec, [["Hi"]])
    request = RowRun(StoredRow(0, ("Hi",), 0, 0), prompt).first_request(7)
    assert request.bad_words == BadWords(ByteTokenizer()).sequences(("ab",))
    assert len(request.bad_words) == 2


def test_a_row_whose_text_is_too_long_to_be_looked_for_fails_with_the_reason():
    spec = GenerationSpec(sampling=Sampling(bad_words=("a" * 40,)), raw=True)
    (prompt,) = Prompter(ByteTokenizer()).read(PromptPlan(("prompt",), spec), spec, [["Hi"]])
    assert prompt.error == f"bad_words: `{'a' * 40}` is 40 tokens: must be 1 to 16"
