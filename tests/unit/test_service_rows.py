"""A row's attempts: numbered, kept together, and followed by what a strategy asks for."""

import itertools
from dataclasses import replace

import pytest

from endmark.jobs.prompts import PromptPlan
from endmark.jobs.sampling import Sampling
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import Ending, EosSource, EosTrace, FinishReason, StoredRow, Verdict
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


def test_a_row_goes_on_under_its_own_adapter_and_says_what_computed_it():
    spec = GenerationSpec(strategies=build_strategies(["continue"]))
    prompter = Prompter(ByteTokenizer(), adapters=2)
    (prompt,) = prompter.read(PromptPlan(("prompt", "adapter"), spec), spec, [("hi", "/adapters/a")])
    run = RowRun(StoredRow(row=5, cells=("hi", "/adapters/a"), round=0, attempts=0), prompt, "vllm: nf4")
    assert run.first_request(1).adapter == "/adapters/a"
    finished = ended(FinishReason.LENGTH)
    assert run.conclude(finished).weights == "vllm: nf4"
    assert run.next_request(finished, 1, prompter).adapter == "/adapters/a"


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


CUT = Verdict(FinishReason.LENGTH)
LANDED = Verdict(FinishReason.EOS, EosSource.BOOSTED)


def trimmed(text, verdict=CUT):
    """Return what becomes of an answer of one token a character under `trim`."""
    run = run_of("trim")
    finished = replace(ended(verdict.finish_reason, text.encode(), text), verdict=verdict)
    run.conclude(replace(finished, lengths=tuple(range(1, len(text) + 1))))
    assert run.next_request(finished, 2, PROMPTER) is None
    (attempt,) = run.outcome().attempts
    assert len(attempt.text) == attempt.completion_tokens == len(text) - attempt.trimmed_tokens
    assert attempt.verdict == verdict
    return attempt


def test_trim_drops_what_stands_behind_the_last_place_where_the_answer_is_whole():
    """The row stays truncated, and its ending is judged on what is kept."""
    attempt = trimmed("It is so. And then")
    assert (attempt.text, attempt.trimmed_tokens) == ("It is so.", 9)
    assert (attempt.ending, attempt.complete, attempt.verdict.truncated) == (Ending.SENTENCE, True, True)


def test_an_answer_that_is_whole_nowhere_stays_as_it_is():
    attempt = trimmed("and so on and")
    assert (attempt.text, attempt.trimmed_tokens, attempt.complete) == ("and so on and", 0, False)


def test_a_trimmed_answer_ends_with_its_text():
    """Cells of a CSV file ended in blank lines; of a token that has a full stop too, the count stays."""
    attempt = trimmed("It is so.\n\n- And then")
    assert (attempt.text, attempt.trimmed_tokens) == ("It is so.", 12)
    run = run_of("trim")
    tokens = ("It is", " so", ".\n\n", "And", " then")
    finished = replace(ended(FinishReason.LENGTH, range(5), "".join(tokens)), verdict=CUT)
    run.conclude(replace(finished, lengths=tuple(itertools.accumulate(map(len, tokens)))))
    (attempt,) = run.outcome().attempts
    assert (attempt.text, attempt.completion_tokens, attempt.trimmed_tokens) == ("It is so.", 3, 2)


def test_trim_does_not_end_an_answer_in_its_loop():
    """Each copy ends with a sentence; the last of them used to be kept, and the answer was a loop."""
    attempt = trimmed("We begin here. " + "It is the same again, and so it goes on for ever. " * 8 + "It is")
    assert attempt.complete
    assert attempt.text.startswith("We begin here. ")
    assert attempt.text.count("It is the same") == 1


def test_an_answer_that_landed_where_nothing_is_whole_is_trimmed_as_well():
    """Two lines that look alike are enough for the device to land, and not enough to be verse."""
    attempt = trimmed("It is so. We find:\n\nA = 2\nC = 6\n\n", LANDED)
    assert (attempt.text, attempt.ending, attempt.complete) == ("It is so.", Ending.SENTENCE, True)


def test_an_answer_that_is_whole_is_not_trimmed_however_it_was_ended():
    assert trimmed("It is so. And that is it.\n").trimmed_tokens == 0
    assert trimmed("It is so. And that is it.", LANDED).trimmed_tokens == 0
