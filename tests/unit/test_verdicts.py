"""The verdict table of the design's section 6, entry by entry, on a scripted runner."""

import pytest

from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import NOT_NUMBERS, EosSource, FinishReason, Verdict
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.flags import FORCED, HIDDEN, NATURAL, UNTOLD
from endmark.worker.engine.request import Request
from endmark.worker.engine.scripted import Sampled, ScriptedRunner
from endmark.worker.engine.text import Vocabulary

pytestmark = pytest.mark.unit

EOS, OTHER_EOS = 0, 1
# The id of any other token is its byte.
TOKENS = [b"", b""] + [bytes((index,)) for index in range(2, 256)]
VOCABULARY = Vocabulary(TOKENS)
PROMPT = [80, 81]


def finish(tokens, budget=10, strategies=(), *, overlaps=False, trace=False, answer=(), fill=46, prompt=PROMPT):
    """Run one row whose answer is scripted; behind the script comes `fill`."""
    script = [item if isinstance(item, Sampled) else Sampled(item) for item in tokens]
    before = len(prompt) + len(answer)

    def say(so_far):
        step = len(so_far) - before
        return script[step] if step < len(script) else Sampled(fill)

    engine = Engine(ScriptedRunner(say, overlaps=overlaps), VOCABULARY, {EOS, OTHER_EOS})
    engine.add(
        Request(
            key=5,
            prompt_token_ids=prompt,
            max_new_tokens=budget,
            strategies=build_strategies(strategies),
            trace=trace,
            answer_token_ids=answer,
        )
    )
    done = []
    while engine.has_work:
        done += engine.step()
    assert len(done) == 1
    return done[0]


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("end", [7, EOS])
def test_scores_that_are_no_numbers_fail_the_row(overlaps, end):
    """An adapter of NaN gave an empty answer, cut by its budget, and an EOS probability of -1."""
    broken = [*letters("Hi"), Sampled(end, eos_prob=float("nan"), eos_rank=0)]
    done = finish(broken, overlaps=overlaps, trace=True, strategies=["stop:text=zz"])
    error = "the model's scores are no numbers (NaN) at token 3"
    assert done.verdict == Verdict(FinishReason.ERROR, error=error)
    assert (done.text, done.completion_tokens) == ("Hi", 2)
    assert done.trace.probs == (0.0, 0.0)
    at_once = finish([Sampled(end, eos_prob=float("nan"))], overlaps=overlaps, trace=True)
    assert at_once.verdict.error.startswith(NOT_NUMBERS)
    assert at_once.verdict.error.endswith("at token 1")
    assert (at_once.text, at_once.token_ids) == ("", ())
    assert (at_once.trace.prob_max, at_once.trace.step_max, at_once.trace.rank_max) == (None, None, None)
    assert at_once.trace.probs == ()


def letters(text):
    return list(text.encode())


def eos(flags=NATURAL, token_id=EOS):
    return Sampled(token_id, flags=flags)


ENDINGS = {
    "natural": ([*letters("Hi."), eos()], [], "Hi.", Verdict(FinishReason.EOS, EosSource.NATURAL)),
    "boosted": ([*letters("Hi."), eos(0)], [], "Hi.", Verdict(FinishReason.EOS, EosSource.BOOSTED)),
    "forced": ([*letters("Hi."), eos(FORCED)], [], "Hi.", Verdict(FinishReason.EOS, EosSource.FORCED)),
    "forced where it would have come by itself": (
        [*letters("Hi."), eos(FORCED | NATURAL)],
        [],
        "Hi.",
        Verdict(FinishReason.EOS, EosSource.NATURAL),
    ),
    "boosted out of a hidden set": (
        [*letters("Hi."), eos(HIDDEN)],
        [],
        "Hi.",
        Verdict(FinishReason.EOS, EosSource.BOOSTED),
    ),
    "of an engine that cannot tell whose EOS it was": (
        [*letters("Hi."), eos(UNTOLD | NATURAL)],
        [],
        "Hi.",
        Verdict(FinishReason.EOS, EosSource.UNKNOWN),
    ),
    "the other end id": (
        [*letters("Hi."), eos(token_id=OTHER_EOS)],
        [],
        "Hi.",
        Verdict(FinishReason.EOS, EosSource.NATURAL),
    ),
    "EOS as the first token": ([eos()], [], "", Verdict(FinishReason.EOS, EosSource.NATURAL)),
    "EOS as the very last budgeted token": (
        [*letters("123456789"), eos()],
        [],
        "123456789",
        Verdict(FinishReason.EOS, EosSource.NATURAL),
    ),
    "EOS one token too late": (
        [*letters("1234567890"), eos()],
        [],
        "1234567890",
        Verdict(FinishReason.LENGTH),
    ),
    "length": (letters("no end in sight"), [], "no end in ", Verdict(FinishReason.LENGTH)),
    "stop string": (
        letters("one;two"),
        ['stop:text=";"'],
        "one",
        Verdict(FinishReason.STOP_SEQUENCE, stop_sequence=";"),
    ),
    "stop string with the last budgeted token": (
        letters("12345678##"),
        ["stop:text=##"],
        "12345678",
        Verdict(FinishReason.STOP_SEQUENCE, stop_sequence="##"),
    ),
    "half a stop string at the budget's end": (
        letters("123456789##"),
        ["stop:text=##"],
        "123456789#",
        Verdict(FinishReason.LENGTH),
    ),
    "half a stop string before EOS": (
        [*letters("one#"), eos()],
        ["stop:text=##"],
        "one#",
        Verdict(FinishReason.EOS, EosSource.NATURAL),
    ),
    "a stop sequence that EOS completes": (
        [*letters("one\n"), eos()],
        ["stop:tokens=10-0"],
        "one",
        Verdict(FinishReason.STOP_SEQUENCE, stop_sequence="10-0"),
    ),
    "a stop sequence that is EOS alone": (
        [*letters("one"), eos()],
        ["stop:tokens=0"],
        "one",
        Verdict(FinishReason.EOS, EosSource.NATURAL),
    ),
    "a stop string that EOS decides": (
        [*letters("abcd"), eos()],
        ["stop:text=abcdef,text=c"],
        "ab",
        Verdict(FinishReason.STOP_SEQUENCE, stop_sequence="c"),
    ),
    "repetition": (
        [*letters("Look: "), *(letters("no ") * 30)],
        ["no-loops:times=3,tokens=16"],
        "Look: no",
        Verdict(FinishReason.REPETITION),
    ),
}


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("case", list(ENDINGS))
def test_each_ending(case, overlaps):
    tokens, strategies, text, verdict = ENDINGS[case]
    budget = 40 if verdict.finish_reason is FinishReason.REPETITION else 10
    finished = finish(tokens, budget, strategies, overlaps=overlaps)
    assert finished.verdict == verdict
    assert finished.text == text
    assert finished.completion_tokens == len(finished.token_ids)
    assert VOCABULARY.text_of(finished.token_ids).startswith(text)


def test_what_each_finish_reason_says():
    """The two columns of the table."""
    said = {reason: (Verdict(reason).ended_with_eos, Verdict(reason).truncated) for reason in FinishReason}
    assert said == {
        FinishReason.EOS: (True, False),
        FinishReason.STOP_SEQUENCE: (False, False),
        FinishReason.REPETITION: (False, True),
        FinishReason.LENGTH: (False, True),
        FinishReason.ERROR: (False, False),
        FinishReason.CANCELLED: (False, False),
    }


def test_a_budget_of_one():
    assert finish([eos()], budget=1).verdict == Verdict(FinishReason.EOS, EosSource.NATURAL)
    cut = finish(letters("ab"), budget=1)
    assert (cut.text, cut.verdict.finish_reason, cut.completion_tokens) == ("a", FinishReason.LENGTH, 1)


def test_an_end_token_is_no_token_of_the_answer():
    finished = finish([*letters("ab"), eos(token_id=OTHER_EOS)])
    assert finished.token_ids == tuple(letters("ab"))
    assert finished.completion_tokens == 2


def test_the_trace_holds_every_step_the_end_too():
    steps = [
        Sampled(65, 0.1, 7, NATURAL | HIDDEN),
        Sampled(66, 0.4, 2, NATURAL | HIDDEN),
        Sampled(67, 0.2, 3, NATURAL),
        Sampled(EOS, 0.3, 1, NATURAL),
    ]
    trace = finish(steps, trace=True).trace
    assert trace.probs == (0.1, 0.4, 0.2, 0.3)
    assert (trace.prob_max, trace.step_max, trace.rank_max, trace.hidden_steps) == (0.4, 1, 2, 2)
    assert finish(steps).trace.probs is None


def test_the_end_itself_counts_as_a_step_of_the_trace():
    trace = finish([Sampled(65, 0.1, 7), Sampled(EOS, 0.9, 0)]).trace
    assert (trace.prob_max, trace.step_max, trace.rank_max) == (0.9, 1, 0)


def test_bytes_of_an_unfinished_character_at_the_budget_s_end():
    assert finish(letters("né"), budget=2).text == "n\ufffd"
    assert finish(letters("né"), budget=3).text == "né"


def test_text_before_a_stop_keeps_its_spaces():
    assert finish(letters("one \n;"), 10, ['stop:text=";"']).text == "one \n"


def test_what_two_watchers_say_together():
    """The loop is found while `stop` waits to see whether a longer stop follows; the earlier cut wins.

    The first `no-loops` cut such a row behind the shorter stop and left it standing in the text.
    """
    stops = "stop:text=b" + ",text=a" + "bc" * 30
    finished = finish([*letters("xa"), *(letters("bc") * 30)], 60, [stops, "no-loops:times=3,tokens=16"])
    assert finished.text == "xa"
    assert finished.verdict == Verdict(FinishReason.STOP_SEQUENCE, stop_sequence="b")


def test_a_continued_row_keeps_its_earlier_text_when_a_stop_is_found():
    """The stop watcher once counted tokens from the attempt, so a cut in a continued row lost the answer."""
    finished = finish(letters("c;d"), 10, ['stop:text=";"'], answer=tuple(letters("ab")))
    assert finished.text == "abc"
    assert finished.token_ids == tuple(letters("abc"))
    assert finished.completion_tokens == 1


def test_a_stop_that_began_in_the_attempt_before():
    finished = finish(letters("#c"), 10, ["stop:text=##"], answer=tuple(letters("ab#")))
    assert finished.text == "ab"
    assert finished.completion_tokens == 0


PROMPTS_TAIL = {
    "the stop straddles prompt and answer": ("Go on:\n#", "## one", "stop:text=###"),
    "all of it but its last character": ("Go on:\n##", "# one", "stop:text=###"),
    "the prompt ends with the whole stop": ("Q: why?\nA:", " one", 'stop:text="A:"'),
    "the prompt is the stop twice": ("######", " one", "stop:text=###"),
    "a sequence of tokens that the prompt begins": ("Go on:\n##", "# one", "stop:tokens=35-35-35"),
    "several stops, each begun by the prompt": ("END of STO", "P it", "stop:text=STOP,text=O,text=END"),
}


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("case", PROMPTS_TAIL)
def test_a_stop_in_the_tail_of_the_prompt_ends_no_row(case, overlaps):
    """A criterion that sees the ids of prompt and answer as one ends such a row before it has begun."""
    prompt, answer, stop = PROMPTS_TAIL[case]
    finished = finish([*letters(answer), eos()], 20, [stop], prompt=letters(prompt), overlaps=overlaps)
    assert finished.text == answer
    assert finished.verdict == Verdict(FinishReason.EOS, EosSource.NATURAL)


def test_a_stop_of_the_answer_s_own_is_found_behind_one_that_straddles():
    finished = finish(letters("## one\n###"), 20, ["stop:text=###"], prompt=letters("Go on:\n#"))
    assert finished.text == "## one\n"
    assert finished.verdict == Verdict(FinishReason.STOP_SEQUENCE, stop_sequence="###")


def test_what_may_be_trimmed_is_told_with_the_length_of_its_text_behind_each_token():
    """Only where the strategy is in force, and never of an answer that the model or a stop of the user's ended."""
    done = finish(letters("It is. And"), strategies=["trim"])
    assert done.verdict.truncated
    assert done.lengths == tuple(range(1, 11))
    boosted = finish([*letters("It is."), eos(flags=0)], budget=20, strategies=["trim"])
    assert boosted.lengths == tuple(range(1, 7))
    assert finish(letters("It is. And")).lengths == ()
    assert finish([*letters("It is. And"), eos()], budget=20, strategies=["trim"]).lengths == ()
    assert finish(letters("It is. And"), strategies=["trim", "stop:text=And"]).lengths == ()
