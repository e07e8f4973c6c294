"""`rewind`: a loop is taken back in the engine, and the row goes on; whatever else the engine does meanwhile."""

from types import SimpleNamespace

import pytest

from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import FinishReason
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.flags import NATURAL
from endmark.worker.engine.request import Request
from endmark.worker.engine.scripted import Sampled, ScriptedRunner
from endmark.worker.engine.steering import Insertion, Phase
from endmark.worker.engine.text import Vocabulary

pytestmark = pytest.mark.unit
EOS = 0
VOCABULARY = Vocabulary([b""] + [f" w{index}".encode() for index in range(1, 100)])
LOOP = list(range(10, 26))  # sixteen words
REWIND = build_strategies(["rewind:times=3,tokens=48"])


class Model:
    """A model that repeats sixteen words for ever; once it was taken back it says something else and ends."""

    def __init__(self, prompt, ways_out=1):
        self._prompt, self._ways_out = len(prompt), ways_out
        self.longest = 0  # tokens of an answer that it has seen

    def __call__(self, tokens):
        answer = tokens[self._prompt :]
        if len(answer) < self.longest and self._ways_out:
            self._ways_out -= 1
            self._end_at = len(answer) + 3
        self.longest = max(self.longest, len(answer))
        if hasattr(self, "_end_at"):
            return EOS if len(answer) >= self._end_at else 90 + len(answer) % 7
        return LOOP[len(answer) % len(LOOP)]


def run(model, requests, **options):
    """Run requests to their ends; return them by key, the engine and its runner."""
    runner = ScriptedRunner(model, **options)
    engine = Engine(runner, VOCABULARY, {EOS})
    for request in requests:
        engine.add(request)
    done = {}
    for _ in range(10_000):
        if not engine.has_work:
            break
        for finished in engine.step():
            done[finished.key] = finished
    assert not engine.has_work
    assert engine.pages[0] == 0
    return done, engine, runner


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_loop_is_taken_back_to_its_first_copy_and_the_row_ends_by_itself(overlaps):
    """Without it the row is cut; starting the row again would compute its first copy once more."""
    prompt = (1, 2, 3)
    done, _, runner = run(Model(prompt), [Request(0, prompt, 100, strategies=REWIND)], overlaps=overlaps)
    finished = done[0]
    assert finished.verdict.finish_reason is FinishReason.EOS
    assert list(finished.token_ids[:16]) == LOOP
    assert len(finished.token_ids) == 19
    assert finished.rewinds == 1
    assert finished.rewound_tokens == 48 - 16
    # What is kept is not computed again: all its whole pages are in their places.
    (begun, again) = [row for plan in runner.plans for row in plan.prefill]
    assert again.cached == (len(prompt) + 16 - 1) // runner.page_size * runner.page_size
    assert (
        again.pages[: again.cached // runner.page_size]
        == begun.pages + again.pages[len(begun.pages) : again.cached // 4]
    )
    assert (begun.sampling.temperature, begun.sampling.dry_multiplier) == (0.0, 0.0)
    assert (again.sampling.temperature, again.sampling.dry_multiplier) == (0.7, 0.8)


def test_no_random_number_is_drawn_twice():
    """At the same place with the same number the row would fall into the same loop."""
    prompt = (1, 2, 3)
    _, _, runner = run(Model(prompt), [Request(0, prompt, 100, strategies=REWIND)])
    positions = [position for plan in runner.plans for position in plan.positions]
    assert len(set(positions)) == len(positions)


@pytest.mark.parametrize("strategy", ["rewind:rewinds=2", "whole:rewinds=2,retakes=0"])
def test_a_row_that_always_loops_ends_as_under_no_loops_when_it_was_taken_back_often_enough(strategy):
    prompt = (1, 2, 3)
    request = Request(0, prompt, 100, strategies=build_strategies([strategy]))
    finished = run(Model(prompt, ways_out=0), [request])[0][0]
    assert finished.verdict.finish_reason is FinishReason.REPETITION
    assert (finished.rewinds, list(finished.token_ids)) == (2, LOOP)


def test_a_loop_at_the_very_end_of_the_budget_is_taken_back_too():
    prompt = (1, 2, 3)
    finished = run(Model(prompt), [Request(0, prompt, 48, strategies=REWIND)])[0][0]
    assert (finished.verdict.finish_reason, finished.rewinds) == (FinishReason.EOS, 1)


@pytest.mark.parametrize("strategy", ["rewind", "whole"])
@pytest.mark.parametrize("overlaps", [False, True])
def test_an_end_of_the_models_own_inside_a_loop_is_taken_back(strategy, overlaps):
    """All loops that `whole` left in 136 answers of a chat model were of this kind: three copies, then EOS."""
    prompt = (1, 2, 3)
    model = Model(prompt)

    def script(tokens):
        token = model(tokens)
        at_end = len(tokens) - len(prompt) == 63 and not hasattr(model, "_end_at")
        return Sampled(EOS, flags=NATURAL) if at_end else token

    strategies = build_strategies([f"{strategy}:tokens=100" + ",retakes=0" * (strategy == "whole")])
    finished = run(script, [Request(0, prompt, 100, strategies=strategies)], overlaps=overlaps)[0][0]
    assert (finished.verdict.finish_reason, finished.rewinds) == (FinishReason.EOS, 1)
    assert list(finished.token_ids[:16]) == LOOP
    assert len(finished.token_ids) == 19


@pytest.mark.parametrize("strategy", ["rewind", "whole"])
def test_an_end_of_the_models_own_that_is_no_loop_stays(strategy):
    """Two copies, and even the middle of a sentence: an end that the model comes to by itself is its answer."""
    prompt = (1, 2, 3)

    def script(tokens):
        answer = len(tokens) - len(prompt)
        return Sampled(EOS, flags=NATURAL) if answer == 32 else LOOP[answer % len(LOOP)]

    finished = run(script, [Request(0, prompt, 100, strategies=build_strategies([strategy]))])[0][0]
    assert (finished.verdict.finish_reason, finished.rewinds) == (FinishReason.EOS, 0)
    assert list(finished.token_ids) == 2 * LOOP


def test_a_boosted_end_inside_a_loop_is_taken_back():
    """`soft-landing` reported 35 of 59 loops as complete answers: their EOS was none of the model's."""
    prompt = (1, 2, 3)
    model = Model(prompt)

    def script(tokens):
        token = model(tokens)
        at_end = len(tokens) - len(prompt) == 49 and not hasattr(model, "_end_at")
        return Sampled(EOS, flags=0) if at_end else token

    strategies = build_strategies(["rewind:tokens=60"])
    finished = run(script, [Request(0, prompt, 100, strategies=strategies)])[0][0]
    assert finished.rewinds == 1


@pytest.mark.parametrize("overlaps", [False, True])
def test_rows_beside_it_and_little_room_change_nothing(overlaps):
    """Rows that hold pages while they wait must not keep all others out for ever."""
    prompt = (1, 2, 3)
    models = {}

    def script(tokens):
        return models.setdefault(tokens[0], Model(prompt))(tokens)

    requests = [Request(key, (key + 1, 2, 3), 100, strategies=REWIND) for key in range(8)]
    options = {"num_pages": 40, "max_rows": 6, "overlaps": overlaps}
    done, _, _ = run(script, requests, **options)
    assert [list(done[key].token_ids[:16]) for key in range(8)] == [LOOP] * 8
    assert {done[key].verdict.finish_reason for key in range(8)} == {FinishReason.EOS}


def test_cancelled_while_it_waits_with_its_pages_it_gives_them_back():
    prompt = (1, 2, 3)
    runner = ScriptedRunner(Model(prompt))
    engine = Engine(runner, VOCABULARY, {EOS})
    engine.add(Request(0, prompt, 100, strategies=REWIND))
    while not engine.waiting or not engine.pages[0]:
        engine.step()
    engine.cancel([0])
    assert engine.pages[0] == 0
    assert not engine.has_work


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_row_taken_back_to_before_the_end_of_its_phase_is_in_it_again(overlaps):
    """What was put in is taken back too; the end of a phase that is no longer in the answer is not told."""
    request = Request(0, (1, 2, 3), 100, strategies=REWIND, phase=Phase((80,)), insertion=Insertion((80,), at=40))
    finished = run(Model((1, 2, 3)), [request], overlaps=overlaps, eos_ids={EOS})[0][0]
    assert finished.rewinds == 1
    assert 80 not in finished.token_ids
    assert finished.phase_end is None


def test_whole_takes_loops_back_trims_and_raises_eos_late():
    """What the model ends by itself before the last part of its budget is left alone; `trim` has the rest."""
    (whole,) = build_strategies(["whole"])
    (late,) = build_strategies(["soft-landing:start=0.85,firm=0.95"])
    assert whole.score_numbers(200) == late.score_numbers(200)
    assert whole.trims
    prompt = (1, 2, 3)
    (once,) = build_strategies(["whole:retakes=0"])
    finished = run(Model(prompt), [Request(0, prompt, 100, strategies=(once,))])[0][0]
    assert finished.rewinds == 1
    with pytest.raises(Exception, match="cannot be combined"):
        build_strategies(["whole", "soft-landing"])


SENTENCE = 99  # the token that ends a sentence
SENTENCES = Vocabulary([b""] + [f" w{index}".encode() for index in range(1, 99)] + [b" done."])


class Rambler:
    """A model whose answers end nowhere, until it has begun anew so many times; then it ends a sentence early."""

    def __init__(self, prompt, attempts, whole_at=20):
        self._prompt, self._left, self._whole_at = len(prompt), attempts, whole_at
        self.longest = 0

    def __call__(self, tokens):
        at = len(tokens) - self._prompt
        if at < self.longest:
            self._left -= 1
            self.longest = 0
        self.longest = max(self.longest, at)
        if self._left <= 0 and at >= self._whole_at:
            return EOS if at > self._whole_at else SENTENCE
        return 1 + (at * at * 7 + at) % 97


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize(("attempts", "retakes", "reason"), [(1, 1, "eos"), (2, 2, "eos"), (3, 2, "length")])
def test_whole_draws_an_answer_again_that_is_whole_nowhere(attempts, retakes, reason, overlaps):
    """There is nothing to trim it to; so it is begun again, warmer, as often as is allowed and no more."""
    prompt = (1, 2, 3)
    engine = Engine(ScriptedRunner(Rambler(prompt, attempts), overlaps=overlaps), SENTENCES, {EOS})
    engine.add(Request(0, prompt, 60, strategies=build_strategies(["whole:retakes=2"])))
    done = [finished for _ in range(1000) if engine.has_work for finished in engine.step()]
    assert [str(item.verdict.finish_reason) for item in done] == [reason]
    assert (done[0].rewinds, done[0].rewound_tokens) == (retakes, retakes * 60)
    plans = [row for plan in engine.runner.plans for row in plan.prefill]
    assert [plan.sampling.temperature for plan in plans] == [0.0, *[0.7] * retakes]
    assert {plan.sampling.dry_multiplier for plan in plans} == {0.0}


def test_whole_draws_again_what_ends_in_the_middle_of_a_sentence_once_it_was_taken_out_of_a_loop():
    """The model ends it by itself, but not at once: it would not have been there. At once it is left alone."""
    prompt = (1, 2, 3)
    finished = run(Model(prompt), [Request(0, prompt, 100, strategies=build_strategies(["whole:retakes=2"]))])[0][
        0
    ]
    assert finished.verdict.finish_reason is FinishReason.EOS
    assert finished.rewinds == 3
    ended = run(
        lambda tokens: EOS if len(tokens) > 33 else 1 + len(tokens) % 97,
        [Request(0, prompt, 100, strategies=build_strategies(["whole:retakes=2"]))],
    )[0][0]
    assert (ended.rewinds, len(ended.token_ids)) == (0, 31)


@pytest.mark.parametrize(("whole_at", "rewinds"), [(20, 0), (10, 2)])
def test_whole_keeps_a_cut_answer_of_which_enough_is_whole(whole_at, rewinds):
    """A quarter is enough; with less the row goes on from there instead."""
    prompt = (1, 2, 3)

    def script(tokens):
        at = len(tokens) - len(prompt)
        return SENTENCE if at == whole_at else 1 + (at * at * 7 + at) % 97

    engine = Engine(ScriptedRunner(script), SENTENCES, {EOS})
    engine.add(Request(0, prompt, 60, strategies=build_strategies(["whole:retakes=2"])))
    done = [finished for _ in range(1000) if engine.has_work for finished in engine.step()]
    assert (done[0].rewinds, done[0].rewound_tokens) == (rewinds, rewinds * (60 - whole_at - 1))
    assert done[0].token_ids[whole_at] == SENTENCE


def test_an_answer_that_is_drawn_again_may_be_taken_out_of_loops_as_the_first_was():
    """Code that looped had no rewinds left when it was drawn again, so every new draw ended at its first loop."""
    prompt = (1, 2, 3)

    class Looper(Rambler):
        """A model whose first answers loop, whose later ones loop and then end a sentence."""

        backs = 0

        def __call__(self, tokens):
            at = len(tokens) - self._prompt
            self.backs += at < self.longest
            self.longest = at
            if self.backs >= 3 and at > 20:
                return EOS if tokens[-1] == SENTENCE else SENTENCE
            return LOOP[at % len(LOOP)]

    engine = Engine(ScriptedRunner(Looper(prompt, 0)), SENTENCES, {EOS})
    engine.add(
        Request(0, prompt, 100, strategies=build_strategies(["whole:rewinds=1,retakes=1,times=3,tokens=48"]))
    )
    done = [finished for _ in range(1000) if engine.has_work for finished in engine.step()]
    assert (str(done[0].verdict.finish_reason), done[0].rewinds) == ("eos", 3)


def test_an_answer_of_white_space_alone_is_drawn_again_from_its_first_token():
    (whole,) = build_strategies(["whole"])
    empty = SimpleNamespace(token_ids=(5, 5), text="\n\n", lengths=(1, 2), end_token_id=0, ended_naturally=True)
    found = whole.watcher().see(empty, last=True)
    assert (found.token_count, found.least) == (0, 4)
