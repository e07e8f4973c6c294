"""Log probabilities of tokens: of answers that are taken back, cut and continued, as stored, and in exports."""

import io
import json
import math

import pytest

from endmark.db.export import FORMATS
from endmark.db.export.request import Export
from endmark.db.export.stream import COLUMNS, Result
from endmark.db.jobs import Job
from endmark.jobs.datasets import openai
from endmark.jobs.errors import SpecError
from endmark.jobs.logprobs import as_completion, as_openai, encode, encode_token, without_last
from endmark.jobs.prompts import RowRequest
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import FinishReason, JobState, StoredRow
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.engine.scripted import Sampled, ScriptedRunner
from endmark.worker.engine.text import Vocabulary
from endmark.worker.service.prompting import Prompt, Prompter
from endmark.worker.service.rows import RowRun
from tests.engine_contract import run
from tests.unit.byte_tokenizer import ByteTokenizer
from tests.unit.export_batches import batches_of

pytestmark = pytest.mark.unit
VOCABULARY = Vocabulary([b"", *(bytes((byte,)) for byte in range(256))], names={0: "</s>"})
KNOWN = {1 + ord("x"): -0.25, 1 + 0xC3: -1.5, 0: -2.0}  # an x, half a character, the end


def engine_of(text, **options):
    """An engine that answers any prompt of bytes with a text, and ends it."""

    def script(tokens):
        answer = tokens[tokens.index(1) + 1 :]
        return Sampled(1 + text[len(answer)] if len(answer) < len(text) else 0, log_probs=KNOWN)

    return Engine(ScriptedRunner(script, eos_ids={0}, **options), VOCABULARY, {0})


def told(finished):
    """The tokens of which an attempt tells, and the stored form."""
    stored = json.loads(finished.logprobs.stored())
    assert [int(scores.ids[0]) for scores in finished.logprobs.tokens] == list(finished.token_ids)
    return stored


def test_each_token_is_told_with_the_best_of_its_step():
    (found,) = run(engine_of(b"xy"), [Request(0, [1], 8, logprobs=3)]).values()
    best = [["x", -0.25], [[0xC3], -1.5], [{"name": "</s>"}, -2.0]]
    assert told(found) == [["x", -0.25, best], ["y", -9.0, best]]
    (found,) = run(engine_of(b"xy"), [Request(0, [1], 8, logprobs=0)]).values()
    assert told(found) == [["x", -0.25, []], ["y", -9.0, []]]
    (found,) = run(engine_of(b"xy"), [Request(0, [1], 8)]).values()
    assert found.logprobs is None


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("strategy", ["stop:text=END", "rewind", "no-loops"])
def test_what_is_taken_back_or_cut_is_not_told(strategy, overlaps):
    """The tokens of an answer and what is told of them stay in step, whatever a strategy does to it."""
    text = b"One sentence here. " + b"The same again. " * 30 + b"END"
    request = Request(0, [1], 400, logprobs=1, strategies=build_strategies([strategy]))
    (found,) = run(engine_of(text, context=600, num_pages=200, overlaps=overlaps), [request]).values()
    assert len(told(found)) == len(found.token_ids) > 10


def test_an_answer_that_goes_on_tells_of_its_first_part_too():
    spec = GenerationSpec(model="m", max_new_tokens=4, logprobs=1, strategies=build_strategies(["continue"]))
    prompter = Prompter(ByteTokenizer())
    (prompt,) = prompter.encode([Prompt(spec, RowRequest("Hi", None, {}))])
    row = RowRun(StoredRow(0, ("x",), 0, 0), prompt)

    def script(tokens):
        return Sampled(1 + ord("x") if len(tokens) < len(prompt.token_ids) + 7 else 0, log_probs=KNOWN)

    engine = Engine(ScriptedRunner(script, eos_ids={0}), VOCABULARY, {0})
    request = row.first_request(0)
    while request is not None:
        (finished,) = run(engine, [request]).values()
        row.conclude(finished)
        request = row.next_request(finished, 0, prompter)
    last = row.outcome().attempts[-1]
    assert (len(row.attempts), last.verdict.finish_reason) == (2, FinishReason.EOS)
    assert [token for token, _, _ in json.loads(last.logprobs)] == ["x"] * 7


STORED = encode(
    [
        [("a", -0.1), ("a", -0.1), ([0xC3], -3.0)],
        [([0xC3], -math.inf), ({"name": "</s>"}, -0.5), ("b", -1.0)],
        [([0xA9], -0.0000001)],
    ]
)


def test_openai_has_bytes_and_never_infinity():
    first, second, third = as_openai(STORED)
    assert first["top_logprobs"][0] == {"token": "a", "logprob": -0.1, "bytes": [97]}
    assert (second["token"], second["logprob"], second["bytes"]) == ("\ufffd", -9999.0, [0xC3])
    assert second["top_logprobs"][0] == {"token": "</s>", "logprob": -0.5, "bytes": None}
    assert (third["bytes"], third["top_logprobs"]) == ([0xA9], [])
    assert as_openai(STORED, begin=2) == [third]
    assert as_openai(without_last(STORED, 1)) == [first, second]
    assert as_openai(without_last(STORED, 0)) == [first, second, third]
    assert as_completion(without_last(STORED, 2)) == {
        "tokens": ["a"],
        "token_logprobs": [-0.1],
        "top_logprobs": [{"a": -0.1, "\ufffd": -3.0}],
        "text_offset": [0],
    }
    assert encode_token(b"\xc3\xa9") == "é"


@pytest.mark.parametrize("texts", [[], ["a"], ["Take", " the", "", " train"], ["é", "\U0001f600", "x"]])
def test_a_completion_tells_where_each_token_begins(texts):
    """In characters, as OpenAI counts them; a test of one token could not tell the first from the last."""
    found = as_completion(json.dumps([[text, -1.0, []] for text in texts]))
    assert found["tokens"] == texts
    assert found["text_offset"] == [len("".join(texts[:index])) for index in range(len(texts))]


def exported(name, url, stored, thought=0):
    """Return the line that a format writes of an answer."""
    values = dict.fromkeys(COLUMNS) | {"response": "a", "finish_reason": "eos", "reasoning_tokens": thought}
    job = Job("j", "j", JobState.COMPLETED, 0, ("url",), 1, {0: GenerationSpec(model="m")})
    handle = io.StringIO()
    rows = [Result(0, [url], tuple(values.values()), stored)]
    FORMATS[name].write(handle, Export(job, ("url",), batches_of(rows)))
    return json.loads(handle.getvalue())


def test_exports_tell_them_where_they_are_kept():
    assert exported("jsonl", "", STORED)["logprobs"] == as_openai(STORED)
    assert "logprobs" not in exported("jsonl", "", None)
    (choice,) = exported("openai", openai.CHAT, STORED, thought=2)["response"]["body"]["choices"]
    assert choice["logprobs"] == {"content": as_openai(STORED)[2:], "refusal": None}
    (choice,) = exported("openai", openai.COMPLETION, STORED)["response"]["body"]["choices"]
    assert choice["logprobs"] == as_completion(STORED)
    (choice,) = exported("openai", openai.CHAT, None)["response"]["body"]["choices"]
    assert choice["logprobs"] is None
    assert [name for name, item in FORMATS.items() if item.logprobs] == ["jsonl", "openai"]


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5),
        ({"top_logprobs": 5}, "`body.top_logprobs` needs `body.logprobs: true`"),
        ({"logprobs": 3}, "`body.logprobs` of a chat is true or false"),
    ],
)
def test_a_chat_asks_for_them_as_openai_has_it(body, count):
    asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **body}
    record = {"custom_id": "a", "body": asked}
    if isinstance(count, str):
        with pytest.raises(ValueError, match=count.split("`:")[0].replace(".", "[.]")):
            openai.request_columns(record)
    else:
        assert openai.request_columns(record)["logprobs"] == count


def test_a_completion_asks_for_a_number_of_them():
    asked = {"model": "m", "prompt": "Hi", "logprobs": 2}
    record = {"custom_id": "a", "url": openai.COMPLETION, "body": asked}
    assert openai.request_columns(record)["logprobs"] == 2
    with pytest.raises(ValueError, match=r"`body[.]logprobs` of a completion is a number"):
        openai.request_columns({**record, "body": {**asked, "logprobs": True}})


def test_more_than_twenty_are_refused():
    with pytest.raises(SpecError, match="logprobs is 21: must be from 0 to 20"):
        GenerationSpec(model="m", logprobs=21)
