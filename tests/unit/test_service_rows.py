"""A row's attempts: numbered, kept together, and followed by what a strategy asks for."""

from dataclasses import replace

import pytest

from endmark.jobs.prompts import PromptPlan
from endmark.jobs.sampling import Sampling
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import Ending, EosTrace, FinishReason, StoredRow, Verdict
from endmark.worker.engine.request import Finished
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.rows import RowRun
from tests.unit.byte_tokenizer import ByteTokenizer

pytestmark = pytest.mark.unit

PROMPTER = Prompter(ByteTokenizer())


def run_of(*strategies, attempts=0, **options):
    spec = GenerationSpec(strategies=build_strategies(strategies), **options)
    (prompt,) = PROMPTER.read(PromptPlan(("prompt",), spec), spec, [("hi",)])
    return RowRun(StoredRow(row=5, cells=("hi",), round=0, attempts=attempts), prompt)


def ended(reason, tokens=(9, 9), text="xx"):
    return Finished(1, tuple(tokens), text, Verdict(reason), 4, len(tokens), EosTrace(prob_max=0.5))


def test_a_request_carries_the_rows_spec():
    sampling = Sampling(temperature=0.5, seed=3)
    request = run_of("stop:text=x", max_new_tokens=9, sampling=sampling, trace=True).first_request(17)
    assert (request.key, request.max_new_tokens, request.sampling) == (17, 9, sampling)
    assert (request.stream, request.trace, request.answer_token_ids) == (5, True, ())
    assert str(request.strategies[0]) == "stop:text=x"


def test_attempts_count_on_from_those_stored():
    run = run_of(attempts=2)
    attempt = run.conclude(ended(FinishReason.EOS))
    assert (attempt.row, attempt.attempt, attempt.strategies) == (5, 3, "baseline")
    assert (attempt.prompt_tokens, attempt.completion_tokens, attempt.trace.prob_max) == (4, 2, 0.5)


@pytest.mark.parametrize("reason", [FinishReason.EOS, FinishReason.STOP_SEQUENCE, FinishReason.ERROR])
def test_only_a_truncated_row_is_followed(reason):
    run = run_of("continue")
    finished = ended(reason)
    run.conclude(finished)
    assert run.next_request(finished, 2, PROMPTER) is None


def test_continue_goes_on_from_the_rows_own_tokens_a_bounded_number_of_times():
    run = run_of("continue:times=2,max_new_tokens=30", max_new_tokens=10)
    tokens = (9, 9)
    for _ in range(2):
        finished = ended(FinishReason.LENGTH, tokens)
        run.conclude(finished)
        request = run.next_request(finished, 2, PROMPTER)
        assert request.answer_token_ids == tokens
        assert request.max_new_tokens == 30
        assert request.prompt_token_ids == run.first_request(2).prompt_token_ids
        tokens += (8,)
    finished = ended(FinishReason.LENGTH, tokens)
    run.conclude(finished)
    assert run.next_request(finished, 2, PROMPTER) is None
    assert [attempt.attempt for attempt in run.attempts] == [1, 2, 3]
    assert [attempt.completion_tokens for attempt in run.attempts] == [2, 3, 4]


def test_escalate_starts_again_under_the_next_strategy_with_its_prompt():
    run = run_of("escalate:to=concise,to=eos-reward")
    finished = ended(FinishReason.LENGTH)
    run.conclude(finished)
    request = run.next_request(finished, 2, PROMPTER)
    assert request.answer_token_ids == ()
    assert "Answer in at most five sentences." in ByteTokenizer().decode(request.prompt_token_ids)
    run.conclude(finished)
    assert "concise" in run.attempts[-1].strategies
    assert run.next_request(finished, 2, PROMPTER) is not None
    run.conclude(finished)
    assert "eos-reward" in run.attempts[-1].strategies
    assert run.next_request(finished, 2, PROMPTER) is None


def test_trim_drops_what_stands_behind_the_last_landing_spot_of_the_last_attempt():
    """The row stays truncated, and its ending is judged on what is kept."""
    run = run_of("trim")
    finished = replace(
        ended(FinishReason.LENGTH, (1, 2, 3, 4), "It is so. And then"), whole_tokens=3, whole_text="It is so."
    )
    run.conclude(finished)
    assert run.next_request(finished, 2, PROMPTER) is None
    (attempt,) = run.outcome().attempts
    assert (attempt.text, attempt.completion_tokens, attempt.trimmed_tokens) == ("It is so.", 3, 1)
    assert (attempt.ending, attempt.complete, attempt.verdict.truncated) == (Ending.SENTENCE, True, True)


def test_an_answer_that_never_landed_stays_as_it_is():
    run = run_of("trim")
    run.conclude(replace(ended(FinishReason.LENGTH, text="and so on and"), whole_tokens=0))
    (attempt,) = run.outcome().attempts
    assert (attempt.text, attempt.trimmed_tokens, attempt.complete) == ("and so on and", 0, False)
