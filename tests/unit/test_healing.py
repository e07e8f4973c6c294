"""Token healing: a prompt is cut before a token that its answer may go on in, and the answer begins with it."""

from dataclasses import replace

import numpy as np
import pytest

from endmark.jobs.prompts import PromptPlan, RowRequest
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import StoredRow
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.healing import Healer, HealingMask
from endmark.worker.engine.request import Request
from endmark.worker.engine.scripted import ScriptedRunner
from endmark.worker.engine.text import Vocabulary
from endmark.worker.service.prompting import Prompt, Prompter
from endmark.worker.service.rows import RowRun
from tests.unit.byte_tokenizer import ByteTokenizer, turns_of

pytestmark = pytest.mark.unit

EOS, BOS = 0, 1
TOKENS = ["", "", "http", "s", ":", "://", "www", " Fr", "an", " France", " Francs", "ce", "x", "é"]
VOCABULARY = Vocabulary([token.encode() for token in TOKENS] + [b"\xc3", b"\xa9"])
ID = {token: index for index, token in enumerate(TOKENS) if token}
HEALER = Healer(VOCABULARY, {EOS})


def ids(*tokens):
    return tuple(ID[token] for token in tokens)


def allowed(mask):
    bits = np.unpackbits(mask.words().view(np.uint8), bitorder="little")[: len(TOKENS)]
    return {TOKENS[token] for token in np.flatnonzero(bits)}


@pytest.mark.parametrize(
    ("tokens", "kept", "text"),
    [
        (("http", "s", ":"), ("http", "s"), ":"),
        (("x", " Fr", "an"), ("x",), " Fran"),
        (("x", " Fr", "an", "ce"), None, None),  # no token holds more than " France"
        (("x", "s"), None, None),
        ((":",), None, None),  # something stays to compute
    ],
)
def test_as_many_tokens_go_as_one_token_begins_with(tokens, kept, text):
    healed = HEALER.cut(ids(*tokens))
    assert (healed and (healed.token_ids, healed.text, healed.data)) == (
        kept and (ids(*kept), text, text.encode())
    )


def test_special_tokens_and_parts_of_characters_stay():
    assert HEALER.cut((BOS, ID[":"])).token_ids == (BOS,)
    assert HEALER.cut((ID[" Fr"], BOS, ID["s"])) is None
    assert HEALER.cut((ID["x"], ID[" Fr"], BOS, ID["an"])) is None, (
        "what stands before a special token is not gone on from"
    )
    assert HEALER.cut((ID["x"], len(TOKENS))) is None, "the first byte of an é, with which another token begins"


def test_only_what_writes_the_same_bytes_may_follow_and_then_everything():
    mask = HealingMask(HEALER, VOCABULARY, b" Fran", (), 9)
    assert allowed(mask) == {" Fr", " France", " Francs"}
    mask.see(ID[" Fr"])
    assert (allowed(mask), mask.steady) == ({"an"}, False)
    mask.see(ID["an"])
    assert (allowed(mask), mask.steady) == (set(TOKENS), True)
    assert HealingMask(HEALER, VOCABULARY, b" Fran", ids(" France"), 9).steady


@pytest.mark.parametrize("overlaps", [False, True])
def test_an_answer_begins_with_what_was_cut_off_and_is_free_behind_it(overlaps):
    """Its mask is gone behind the first free token: the row then costs what any other does."""
    runner = ScriptedRunner(
        lambda tokens: ID["x"], overlaps=overlaps, num_pages=40, prefill_tokens=40, eos_ids={EOS}
    )
    engine = Engine(runner, VOCABULARY, {EOS})
    engine.add(Request(0, ids("http", "s"), 6, mask=HEALER.maker(b":")))
    engine.add(Request(1, ids("http", "s"), 6))
    done = {}
    while engine.has_work:
        done.update({finished.key: finished.text for finished in engine.step()})
    assert done[0][0] == ":"
    assert done[0].removeprefix("://").removeprefix(":") == "x" * 5
    assert done[1] == "x" * 6
    assert not any(row.answer.mask for row in engine._scheduler.rows())


class Masks:
    """What makes masks of a model whose tokens are bytes, and one more that goes on from a colon."""

    def __init__(self):
        tokens = [b"", *(bytes([value]) for value in range(256)), b""]
        tokens[250] = b"://"
        self.healer = Healer(Vocabulary(tokens), {EOS})

    def heal(self, token_ids):
        return self.healer.cut(token_ids)

    def free(self, begun):
        return self.healer.maker(begun)


def encoded(*, text="https:", turns=None, **options):
    spec = GenerationSpec(**{"token_healing": True, **options})
    columns, cells = (("messages",), (turns,)) if turns else (("prompt",), (text,))
    (prompt,) = Prompter(ByteTokenizer(), Masks()).read(PromptPlan(columns, spec), spec, [cells])
    assert prompt.error is None
    return prompt


def test_prompts_that_a_template_ends_are_left_alone_and_those_that_the_user_ends_are_healed():
    begun = turns_of(("user", "a link"), ("assistant", "https:"))
    assert encoded(raw=True).begun == ":"
    assert encoded(turns=begun).begun == ":"
    assert encoded().begun == ""
    assert encoded(raw=True, token_healing=False).begun == ""
    assert encoded(raw=True, text="https").begun == ""
    whole = encoded(raw=True, token_healing=False).token_ids
    assert encoded(raw=True).token_ids == whole[:-1]


@pytest.mark.parametrize(("written", "kept"), [("://www", "//www"), (":", ""), ("", "")])
def test_the_response_is_what_stands_behind_the_prompt(written, kept):
    row = RowRun(StoredRow(0, ("https:",), 0, 0), Prompt(GenerationSpec(), RowRequest("", None, {}), begun=":"))
    engine = Engine(ScriptedRunner(lambda tokens: EOS, eos_ids={EOS}), VOCABULARY, {EOS})
    engine.add(Request(0, ids("x"), 3))
    done = []
    while engine.has_work:
        done += engine.step()
    assert row.conclude(replace(done[0], text=written)).text == kept
