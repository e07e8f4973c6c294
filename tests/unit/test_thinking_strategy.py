"""`think` through the scripted engine: the thought's budget, the answer's own, and what closes a thought."""

import random
from dataclasses import replace

import numpy as np
import pytest

from endmark.jobs.errors import SpecError
from endmark.jobs.strategies import build_strategies, score_numbers
from endmark.jobs.vocabulary import Ending, EosSource, FinishReason, Part
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.flags import NATURAL
from endmark.worker.engine.scripted import Sampled, ScriptedRunner
from endmark.worker.engine.text import Vocabulary
from tests.unit.test_thinking_rows import CLOSE, EOS, OPENS, VOCABULARY, ThinkingTokenizer, answer_of, run_of

pytestmark = pytest.mark.unit

LONG = "So I go on and on. " * 20
KINDS = [  # a tokeniser, the begin of its answers, and whether its marks are several tokens
    (ThinkingTokenizer(**OPENS), "", None),
    (ThinkingTokenizer(), "<think>", None),
    (ThinkingTokenizer(marks=("<other>", "</other>")), "<think>", "<think>,</think>"),
]


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize(
    "kind", KINDS, ids=["opened by the prompt", "opened by the model", "marks of many tokens"]
)
def test_a_thought_is_closed_at_its_budget_and_the_answer_has_its_own(kind, overlaps):
    tokenizer, begin, marks = kind
    (attempt,) = answer_of(
        begin + LONG,
        tokenizer=tokenizer,
        strategies=['think:budget=40,message="Time is up."'],
        thinking_marks=marks,
        max_new_tokens=12,
        overlaps=overlaps,
        behind="\n\nYes, it is so, and more.$",
    )
    assert (attempt.ended_in, attempt.thought_closed) == (Part.ANSWER, EosSource.FORCED)
    assert attempt.reasoning.startswith("So I go on")
    assert attempt.reasoning.endswith("Time is up.")
    assert attempt.verdict.finish_reason is FinishReason.LENGTH
    assert attempt.text == "Yes, it is"
    closing = len(run_of(tokenizer, ["think:message=Time is up."], thinking_marks=marks)[0].prompt.closing)
    assert attempt.reasoning_tokens == 40 + closing, "no step late, whatever the marks are"
    assert attempt.completion_tokens == attempt.reasoning_tokens + 12


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize(
    "kind", KINDS, ids=["opened by the prompt", "opened by the model", "marks of many tokens"]
)
def test_a_thought_that_ends_by_itself_leaves_its_budget_unused(kind, overlaps):
    """The answer's budget counts from the mark: what was not needed before is not the answer's."""
    tokenizer, begin, marks = kind
    options = {"tokenizer": tokenizer, "thinking_marks": marks, "overlaps": overlaps, "max_new_tokens": 9}
    (attempt,) = answer_of(begin + "Hm.</think>" + LONG, strategies=["think:budget=400"], **options)
    assert (attempt.thought_closed, attempt.verdict.finish_reason) == (EosSource.NATURAL, FinishReason.LENGTH)
    assert (attempt.reasoning, attempt.text) == ("Hm.", LONG[:9])
    (attempt,) = answer_of(begin + "Hm.</think>Yes.$", strategies=["think:budget=400"], **options)
    assert (attempt.text, attempt.verdict.finish_reason) == ("Yes.", FinishReason.EOS)


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("natural", [False, True])
@pytest.mark.parametrize("opens", ["", "<think>\n"])
def test_a_mark_of_several_tokens_goes_on_behind_its_first_where_that_was_raised(opens, natural, overlaps):
    """The model, which has not chosen the first, would not go on with it; where it has, it goes on by itself."""
    tokenizer = ThinkingTokenizer(marks=("<other>", "</other>"), opens=opens)
    marks = {"thinking_marks": "<think>,</think>"}
    run, _ = run_of(tokenizer, ["think:budget=90"], max_new_tokens=30, **marks)
    begin = "" if opens else "<think>"
    own = "</think>Yes.$" if natural else "< bYes.$"  # what it says from the place of the mark on
    said = tokenizer.script(f"{begin}Hm. So.\n{own}")
    first, length = len(f"{begin}Hm. So.\n"), len(run.prompt.token_ids)
    mark = tuple(tokenizer.script("</think>"))

    def say(so_far):
        answer = tuple(so_far[length:])
        if answer[-len(mark) :] == mark:
            return tokenizer.script("Y")[0]
        if len(answer) > first + len(mark) - 1:
            return tokenizer.script("es.$$$")[len(answer) - first - len(mark) - 1]
        token = said[len(answer)]
        return Sampled(token, flags=NATURAL if natural or len(answer) != first else 0)

    engine = Engine(ScriptedRunner(say, overlaps=overlaps, eos_ids={EOS}, context=300), VOCABULARY, {EOS})
    engine.add(run.first_request(0))
    (finished,) = [item for _ in range(200) if engine.has_work for item in engine.step()]
    assert (finished.reasoning, finished.text) == ("Hm. So.", "Yes.")
    assert finished.thought_closed is (EosSource.NATURAL if natural else EosSource.BOOSTED)
    assert finished.phase_end.tokens == first + len(mark)


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("marks", [None, "<think>,</think>"])
def test_a_second_thought_shares_the_budget_of_the_first(marks, overlaps):
    """It had none: a later thought could take all that was left, and nothing stood behind it."""
    tokenizer = ThinkingTokenizer(marks=("<other>", "</other>") if marks else ("<think>", "</think>"))
    options = {"tokenizer": tokenizer, "thinking_marks": marks, "overlaps": overlaps, "max_new_tokens": 40}
    begin = "<think>Hm. So.</think>One.\n<think>"
    (attempt,) = answer_of(
        begin + LONG, strategies=["think:budget=60,message=Now."], behind="Two.$", opened=2, **options
    )
    first = len(tokenizer.script("<think>Hm. So.</think>"))
    closing = len(run_of(tokenizer, ["think:message=Now."], thinking_marks=marks)[0].prompt.closing)
    assert (attempt.ended_in, attempt.thought_closed) == (Part.ANSWER, EosSource.FORCED)
    assert attempt.reasoning.endswith("Now.")
    assert attempt.text == "One.\nTwo."
    assert first + 20 < attempt.reasoning_tokens <= 60 + closing + 1


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("said", ["Hm.$", "It is so. " * 60])
@pytest.mark.parametrize("marks", [None, "<think>,</think>"])
def test_an_eos_and_a_loop_in_a_second_thought_close_it(marks, said, overlaps):
    tokenizer = ThinkingTokenizer(marks=("<other>", "</other>") if marks else ("<think>", "</think>"))
    options = {"tokenizer": tokenizer, "thinking_marks": marks, "overlaps": overlaps, "max_new_tokens": 600}
    begin = "<think>Hm.</think>One.\n<think>"
    (attempt,) = answer_of(begin + said, strategies=["think:budget=900"], behind="Two.$", opened=2, **options)
    assert (attempt.text, attempt.thought_closed) == ("One.\nTwo.", EosSource.FORCED)


def test_an_answer_without_a_thought_has_its_own_budget_alone():
    (attempt,) = answer_of(LONG, strategies=["think:budget=400"], max_new_tokens=9)
    assert (attempt.text, attempt.reasoning, attempt.completion_tokens) == (LONG[:9], None, 9)
    (attempt,) = answer_of("<think>a</think>b.$", strategies=["think"], max_new_tokens=1)
    assert (attempt.text, attempt.reasoning) == ("b", "a"), (
        "a first token that opens a thought is none of the answer"
    )


def test_eos_in_the_thought_becomes_the_mark_unless_it_is_not_strict():
    for tokenizer, begin in ((ThinkingTokenizer(**OPENS), ""), (ThinkingTokenizer(), "<think>")):
        (attempt,) = answer_of(
            f"{begin}Hm.$", tokenizer=tokenizer, strategies=["think:budget=99"], behind="\n\nYes.$"
        )
        assert (attempt.reasoning, attempt.text, attempt.thought_closed) == ("Hm.", "Yes.", EosSource.FORCED)
        (attempt,) = answer_of(
            f"{begin}Hm.$", tokenizer=tokenizer, strategies=["think:budget=99,strict=no"], behind="\n\nYes.$"
        )
        assert (attempt.ended_in, attempt.ending, attempt.thought_closed) == (Part.REASONING, Ending.EMPTY, None)
        assert attempt.verdict.finish_reason is FinishReason.EOS
    (attempt,) = answer_of("Hm.$", strategies=["think"])
    assert attempt.text == "Hm.", "no thought, so the end of the answer"


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("begin", ["\n", " \n\n", "Well.\n"])
def test_a_thought_that_does_not_begin_with_the_answer_has_its_budget_and_its_mark_too(begin, overlaps):
    """White space before the opening mark left a row without both: its first token had said that none opens."""
    options = {"max_new_tokens": 12, "overlaps": overlaps, "behind": "\n\nYes, it is so, and more.$"}
    (attempt,) = answer_of(f"{begin}<think>{LONG}", strategies=["think:budget=40,message=Now."], **options)
    assert (attempt.ended_in, attempt.thought_closed) == (Part.ANSWER, EosSource.FORCED)
    assert attempt.reasoning.endswith("Now.")
    assert attempt.text.endswith("Yes, it is")
    assert (attempt.verdict.finish_reason, attempt.rewinds) == (FinishReason.LENGTH, 0)
    closing = len(run_of(ThinkingTokenizer(), ["think:message=Now."])[0].prompt.closing)
    assert attempt.completion_tokens == 40 + closing + 12
    (attempt,) = answer_of(f"{begin}<think>Hm.$", strategies=["think:budget=40"], **options)
    assert (attempt.reasoning, attempt.thought_closed) == ("Hm.", EosSource.FORCED)
    late = f"{'I will. ' * 9}\n<think>{LONG}"
    (attempt,) = answer_of(late, strategies=["think:budget=40"], **{**options, "max_new_tokens": 90})
    assert (attempt.reasoning, attempt.thought_closed) == ("", EosSource.FORCED), "its budget was spent before it"


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("thought", ["Hm.", "", "So it goes"])
def test_eos_in_a_thought_between_marks_of_several_tokens_becomes_the_mark_too(thought, overlaps):
    """It ended the row once: the device knows no such marks, so the host takes the EOS back."""
    tokenizer, begin, marks = KINDS[2]
    options = {"tokenizer": tokenizer, "thinking_marks": marks, "overlaps": overlaps, "max_new_tokens": 9}
    text = f"{begin}{thought}$"
    (attempt,) = answer_of(text, strategies=["think:budget=99,message=Now."], behind="\n\nYes.$", **options)
    assert (attempt.reasoning, attempt.text, attempt.thought_closed) == (
        f"{thought}Now.",
        "Yes.",
        EosSource.FORCED,
    )
    assert (attempt.verdict.finish_reason, attempt.rewinds) == (FinishReason.EOS, 0)
    (attempt,) = answer_of(text, strategies=["think:budget=99,strict=no"], behind="\n\nYes.$", **options)
    assert (attempt.ended_in, attempt.verdict.finish_reason) == (Part.REASONING, FinishReason.EOS)


def test_a_mark_that_the_model_would_have_chosen_too_is_natural():
    """The budget ends where the model closes the thought by itself, so that nothing was forced."""
    tokenizer = ThinkingTokenizer(**OPENS)
    (attempt,) = answer_of("Hm\n</think>Yes.$", tokenizer=tokenizer, strategies=["think:budget=2"])
    assert (attempt.reasoning, attempt.text, attempt.thought_closed) == ("Hm", "Yes.", EosSource.NATURAL)


def test_numbers_of_the_answer_count_from_where_it_begins():
    run, _ = run_of(ThinkingTokenizer(), ["think:budget=100,start=0.5", "soft-landing"], max_new_tokens=10)
    request = run.first_request(0)
    assert (request.max_new_tokens, request.answer_budget) == (100 + 2 + 10, 10)
    assert (request.phase.numbers.start, request.phase.numbers.full, request.phase.restarts) == (50, 100, True)
    assert (request.insertion.at, request.insertion.token_ids[-1]) == (100, CLOSE)
    engine = Engine(ScriptedRunner(lambda _: 5, eos_ids={EOS}), VOCABULARY, {EOS})
    engine.add(replace(request, prompt_token_ids=[9] * 10))
    (row,) = engine._scheduler.rows()
    assert (row.numbers.start, row.numbers.full) == (6.0, 8.0)


def test_a_thought_is_shortened_where_the_context_has_no_room_for_an_answer_behind_it():
    tokenizer = ThinkingTokenizer(**OPENS)
    run, _ = run_of(tokenizer, ["think:budget=9000"], max_new_tokens=20)
    request = run.first_request(0)
    context = len(request.prompt_token_ids) + 100
    runner = ScriptedRunner(lambda _: 66, eos_ids={EOS}, context=context, num_pages=900, prefill_tokens=900)
    engine = Engine(runner, VOCABULARY, {EOS})
    engine.add(request)
    done = []
    while engine.has_work:
        done += engine.step()
    assert (done[0].reasoning_tokens, done[0].text) == (100 - 20, "A" * 20)


class Digits:
    """A mask of digits and EOS."""

    refusal, surplus, closes, steady = "", 0, False, False

    def __init__(self, token_ids, left):
        self.seen = list(token_ids)
        self.left = left

    def see(self, token_id):
        self.seen.append(token_id)
        assert token_id in range(49, 59)

    def start(self):
        pass

    def words(self):
        bits = np.zeros(288, np.uint8)
        bits[[EOS, *range(49, 59)]] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)


@pytest.mark.parametrize("begin", ["<think>Hm.</think>", "<think>Hm.$", ""])
def test_a_shape_holds_for_the_answer_and_leaves_the_thought_free(begin):
    """The opening mark may come although the shape has no place for it; the answer's budget is the shape's."""
    tokenizer = ThinkingTokenizer()
    run, _ = run_of(tokenizer, ["think:budget=50"], max_new_tokens=7)
    made = []

    def mask(token_ids, left):
        made.append(Digits(token_ids, left))
        return made[-1]

    request = replace(run.first_request(0), prompt_token_ids=[70], mask=mask)
    begun = tokenizer.script(begin)

    def say(so_far):
        step = len(so_far) - 1
        if step < len(begun) and CLOSE not in so_far:
            return begun[step]
        return ord("7") + 1 if len(so_far) % 9 else EOS

    engine = Engine(ScriptedRunner(say, eos_ids={EOS}), VOCABULARY, {EOS})
    engine.add(request)
    done = []
    while engine.has_work:
        done += engine.step()
    assert set(done[0].text) == {"7"}
    assert done[0].reasoning == ("Hm." if begin else None)
    assert (made[-1].seen, made[-1].left) == ([56] * len(done[0].text), 7)


def test_what_cannot_be_closed_so_is_refused_with_a_way_out():
    run, _ = run_of(ThinkingTokenizer(marks=("<a>", "<b>")), ["think"])
    assert "no thinking marks" in run.prompt.error
    run, _ = run_of(ThinkingTokenizer(), [f'think:message="{"word " * 40}"'])
    assert "at most 64" in run.prompt.error
    with pytest.raises(SpecError, match="at least 1"):
        build_strategies(["think:budget=0"])


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("pages", [900, 24])
def test_rows_of_one_batch_think_and_answer_as_each_would_alone(pages, overlaps):
    """Plain rows, thoughts closed by the model, by budget, by EOS and in loops; also where rows are preempted."""
    rng = random.Random(3)
    texts = ["Plain.$", "<think>Hm.</think>Yes.$", "<think>Hm.$", f"<think>{LONG}", f"<think>a</think>{LONG}"]
    texts += [f"\n<think>{LONG}", "\n\n<think>Hm.$"]
    strategies = ["baseline", "think:budget=30", "think:budget=12;trim", "no-loops", "stop:text=go"]
    tokenizer = ThinkingTokenizer()
    runs = []
    for _ in range(24):
        run, _ = run_of(tokenizer, [rng.choice(strategies)], max_new_tokens=rng.choice([8, 40]))
        runs.append((run, tokenizer.script(rng.choice(texts))))

    def answers(chosen, pages):
        requests = [replace(run.first_request(key), prompt_token_ids=[key + 1]) for key, (run, _) in chosen]
        scripts = {key + 1: script for key, (_, script) in chosen}

        def say(so_far):
            script, step = scripts[so_far[0]], len(so_far) - 1
            return script[step] if step < len(script) else (EOS if step % 7 == 0 else 67 + step % 5)

        runner = ScriptedRunner(
            say, overlaps=overlaps, eos_ids={EOS}, context=200, num_pages=pages, prefill_tokens=400
        )
        engine = Engine(runner, VOCABULARY, {EOS})
        for request in requests:
            engine.add(request)
        done = {}
        while engine.has_work:
            done |= {finished.key: finished for finished in engine.step()}
        return done, engine.preemptions

    together, preempted = answers(list(enumerate(runs)), pages)
    assert bool(preempted) == (pages == 24)
    for key, run in enumerate(runs):
        alone = answers([(key, run)], 900)[0][key]
        assert together[key] == alone


@pytest.mark.parametrize(
    ("scope", "thought", "answer", "part"),
    [
        ("answer", "A. END", "So", Part.ANSWER),
        ("reasoning", "A.", "", Part.REASONING),
        ("all", "A.", "", Part.REASONING),
    ],
)
def test_a_stop_looks_at_the_part_that_it_is_given(scope, thought, answer, part):
    (attempt,) = answer_of("<think>A. END</think>SoEND more.$", strategies=[f"stop:text=END,scope={scope}"])
    assert (attempt.reasoning, attempt.text.strip(), attempt.ended_in) == (thought, answer, part)
    assert attempt.verdict.finish_reason is FinishReason.STOP_SEQUENCE
    assert attempt.verdict.stop_sequence == "END"
    (attempt,) = answer_of("<think>A.</think>SoEND more.$", strategies=[f"stop:text=END,scope={scope}"])
    assert attempt.text == ("SoEND more." if scope == "reasoning" else "So")
    (attempt,) = answer_of("A. END more.$", strategies=[f"stop:text=END,scope={scope}"])
    assert attempt.text == ("A. END more." if scope == "reasoning" else "A. ")


@pytest.mark.parametrize("name", ["soft-landing", "eos-reward", "exp-decay"])
@pytest.mark.parametrize("scope", ["answer", "reasoning", "all"])
def test_score_strategies_act_on_the_end_of_the_part_that_they_are_given(name, scope):
    tokenizer = ThinkingTokenizer(**OPENS)
    run, _ = run_of(tokenizer, [f"{name}:scope={scope}"], max_new_tokens=50)
    request = run.first_request(0)
    (strategy,) = build_strategies([name])
    expected = strategy.score_numbers(50)
    assert (request.phase.numbers == expected, request.phase.numbers.is_neutral) == (
        scope != "answer",
        scope == "answer",
    )
    assert score_numbers(request.strategies, 50).is_neutral == (scope == "reasoning")


def test_scopes_that_cannot_be():
    with pytest.raises(SpecError, match="must be one of answer, reasoning, all"):
        build_strategies(["stop:text=a,scope=thought"])
    with pytest.raises(SpecError, match="both act on the end of the thought"):
        build_strategies(["think", "soft-landing:scope=all"])
    build_strategies(["think", "soft-landing", "stop:text=a,scope=all"])


@pytest.mark.parametrize("retakes", [0, 2])
def test_whole_draws_an_empty_answer_again_and_holds_eos_back(retakes):
    """An EOS right behind the thought is natural, and still no answer."""
    tokenizer = ThinkingTokenizer()
    run, _ = run_of(tokenizer, [f"whole:retakes={retakes}"], max_new_tokens=60)
    script = tokenizer.script("<think>Hm.</think>$")

    def say(so_far):
        step, again = len(so_far) - 1, len(runner.plans) > len(script)
        return tokenizer.script("Yes.$")[step - len(script) + 1] if again else script[step]

    runner = ScriptedRunner(say, eos_ids={EOS}, num_pages=200)
    engine = Engine(runner, VOCABULARY, {EOS})
    engine.add(replace(run.first_request(0), prompt_token_ids=[70]))
    done = []
    while engine.has_work:
        done += engine.step()
    assert done[0].reasoning == "Hm."
    assert (done[0].text, done[0].rewinds) == (("Yes.", 1) if retakes else ("", 0))
    if retakes:
        (row,) = runner.plans[len(script)].prefill
        assert row.sampling.min_new_tokens == len(script) - 1 + 4
        assert row.sampling.temperature == 0.7


class MergingTokenizer(ThinkingTokenizer):
    """Marks are ordinary text, and `>` with two line ends behind it is one token, as in Llama 3."""

    def __init__(self, **options):
        super().__init__(marks=("<other>", "</other>"), **options)

    def script(self, text):
        first, *others = (super(MergingTokenizer, self).script(part) for part in text.split(">\n\n"))
        return [*first, *(token_id for part in others for token_id in (MERGED, *part))]


MERGED = 260
MERGING = Vocabulary([*(VOCABULARY.token_bytes[:258]), b"<other>", b"</other>", b">\n\n"])
MERGED_SAYS = "Hm. So.</think>\n\nYes, it is so, and so it goes on for a while here.$"


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("opens", ["", "<think>\n"])
@pytest.mark.parametrize("strategies", ["think:budget=40,message=Now.", "think:budget=40;whole", "soft-landing"])
def test_a_closing_mark_that_is_merged_with_the_line_ends_behind_it_closes_the_thought(
    strategies, opens, overlaps
):
    """`think` wrote the mark into such answers once: the device waited for the mark's own tokens.

    Nemotron's first models say `</think>` in text that Llama 3's tokeniser merges so.
    """
    options = {"vocabulary": MERGING, "overlaps": overlaps, "thinking_marks": "<think>,</think>"}
    says = ("" if opens else "<think>") + MERGED_SAYS
    (attempt,) = answer_of(
        says, tokenizer=MergingTokenizer(opens=opens), strategies=[strategies], max_new_tokens=90, **options
    )
    assert (attempt.reasoning, attempt.text) == ("Hm. So.", MERGED_SAYS.partition(">\n\n")[2].rstrip("$"))
    assert (attempt.thought_closed, attempt.verdict.eos_source) == (EosSource.NATURAL, EosSource.NATURAL)
    assert attempt.rewinds == 0
    if "think" in strategies:
        (attempt,) = answer_of(
            says, tokenizer=MergingTokenizer(opens=opens), strategies=[strategies], max_new_tokens=12, **options
        )
        assert attempt.completion_tokens - attempt.reasoning_tokens <= 12, "its budget counts from the mark"


def test_an_attempt_that_goes_on_behind_a_merged_mark_is_in_the_answer():
    attempts = answer_of(
        MERGED_SAYS,
        tokenizer=MergingTokenizer(**OPENS),
        vocabulary=MERGING,
        strategies=["think:budget=40;continue:times=9"],
        thinking_marks="<think>,</think>",
        max_new_tokens=12,
    )
    assert len(attempts) > 2
    assert attempts[-1].text == MERGED_SAYS.partition(">\n\n")[2].rstrip("$")
    assert {item.reasoning for item in attempts} == {"Hm. So."}
