"""What a request does not ask for changes nothing: every field of its plan and of its result stands at rest."""

from dataclasses import fields

import pytest

from endmark.jobs.sampling import Sampling
from endmark.jobs.strategies import ScoreNumbers, build_strategies, score_numbers
from endmark.jobs.vocabulary import EosSource, EosTrace, FinishReason, Verdict
from endmark.worker.engine.answer import Answer
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.flags import FORCED, NATURAL
from endmark.worker.engine.followed import FollowedSteering
from endmark.worker.engine.plan import DecodePlan, StepPlan, StepResult, steering_of
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.row import RowState
from endmark.worker.engine.scripted import Sampled, ScriptedRunner
from endmark.worker.engine.steering import NEVER, Insertion, Phase, Standing
from endmark.worker.engine.text import Vocabulary

pytestmark = pytest.mark.unit

VOCABULARY = Vocabulary([b"", *(bytes([97 + at]) for at in range(20))])
EOS = 0


def values(item):
    return {field.name: getattr(item, field.name) for field in fields(item)}


def ended(request, script, **options):
    engine = Engine(ScriptedRunner(script, **options), VOCABULARY, {EOS})
    engine.add(request)
    (finished,) = [item for _ in range(request.max_new_tokens + 2) for item in engine.step()]
    return finished


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_plain_answer_has_no_number_of_what_it_does_not_have(overlaps):
    def script(tokens):
        return Sampled(3 if len(tokens) < 5 else EOS, eos_prob=len(tokens) / 8, eos_rank=len(tokens))

    assert values(ended(Request(7, [1, 2], 9), script, overlaps=overlaps)) == {
        "key": 7,
        "token_ids": (3, 3, 3),
        "text": "ccc",
        "verdict": Verdict(FinishReason.EOS, eos_source=EosSource.NATURAL),
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "trace": EosTrace(prob_max=5 / 8, step_max=3, rank_max=5, hidden_steps=0, probs=None),
        "lengths": (),
        "rewinds": 0,
        "rewound_tokens": 0,
        "end_token_id": EOS,
        "phase_end": None,
        "cached_tokens": 0,
        "reasoning": None,
        "reasoning_tokens": 0,
        "in_thought": False,
        "thought_closed": None,
        "asked": (),
        "asked_before": (),
        "logprobs": None,
        "choice_probs": None,
    }
    assert ended(Request(7, [1, 2], 2), script, overlaps=overlaps).end_token_id is None


def test_a_plain_request_asks_for_nothing():
    assert values(Request(7, [1], 9)) == {
        **dict.fromkeys(
            (
                "insertion", "mask", "phase", "thought", "answer_budget", "thought_budget", "logprobs", "adapter",
                "choices",
            )
        ),
        **dict.fromkeys(
            ("strategies", "bad_words", "answer_token_ids", "asked", "asked_before", "answer_scores"), ()
        ),
        "key": 7, "prompt_token_ids": [1], "max_new_tokens": 9, "sampling": Sampling(), "stream": 0,
        "trace": False, "eos_closes": False,
    }  # fmt: skip


def test_a_plain_row_is_planned_with_nothing_but_its_tokens():
    row = RowState(Answer(Request(7, [1, 2, 3], 9, stream=4), VOCABULARY, 9))
    row.slot, row.pages, row.front, row.computed = 2, [5], 3, 2
    planned = row.plan(row.token_ids, 1)
    assert values(planned) == {
        **dict.fromkeys(("insertion", "phase", "mask", "logprobs", "copied")),
        **dict.fromkeys(("bad_words", "asked", "asked_before"), ()),
        **dict.fromkeys(("step", "position", "sentence_state", "matched", "origin"), 0),
        "slot": 2, "token_ids": (1, 2, 3), "cached": 1, "pages": (5,), "sampling": Sampling(),
        "numbers": ScoreNumbers(), "stream": 4, "prompt": 3, "phase_open": False, "phase_undecided": False,
        "left": 1,
    }  # fmt: skip
    assert (planned.end, row.length, row.input_position, row.prefilling) == (2, 3, 2, True)
    steering = steering_of(planned)
    assert (steering.phase, steering.is_open, steering.is_undecided) == (None, False, False)
    assert (steering.insertion, steering.matched, steering.restarted, steering.targets) == (None, 0, None, ())


def test_an_empty_step_has_nothing():
    plan = StepPlan()
    assert (plan.slots, plan.steps, plan.positions, plan.lengths, plan.masks) == ([], [], [], [], [])
    assert (plan.asked, plan.ending, list(plan.prefill)) == ({}, [], [])
    decode = DecodePlan([1], [2], [3], [4])
    assert [*decode.new_pages, *decode.masks, *decode.late, *decode.calls] == []
    result = StepResult([], [], [], [])
    assert (result.asked, result.asked_before, result.told) == ({}, {}, {})


def test_a_slot_whose_memory_is_zero_stands_in_no_phase():
    """Records begin as zeros, and kernels read those of slots that no row has."""
    assert [standing.value for standing in Standing] == [0, 1, 2, 3]
    assert Standing.NONE == 0
    assert NEVER > 2**20, "beyond any budget"


@pytest.mark.parametrize("restarts", [None, False, True])
@pytest.mark.parametrize("own", [None, 0, 5, 50])
def test_numbers_are_of_the_answer_s_budget_where_they_restart_and_else_of_the_whole(restarts, own):
    whole = 20
    strategies = build_strategies(["eos-reward:start=0.5"])
    phase = Phase((7,), restarts=restarts) if restarts is not None else None
    request = Request(0, [1], whole, strategies=strategies, phase=phase, answer_budget=own)
    budget = min(own, whole) if restarts and own else whole
    assert RowState(Answer(request, VOCABULARY, whole)).numbers == score_numbers(strategies, budget)


@pytest.mark.parametrize(("flags", "source"), [(0, EosSource.BOOSTED), (NATURAL, EosSource.NATURAL)])
@pytest.mark.parametrize("anew", [False, True])
def test_who_has_raised_an_end_of_several_tokens_is_known_where_a_row_is_taken_up_anew(flags, source, anew):
    """Behind the first of them, as after preemption: the rest is put in, and who began it has ended the phase."""
    request = Request(0, [1], 30, phase=Phase((7,), mark=(7, 8)), insertion=Insertion((4, 7, 8)))
    host = FollowedSteering(request, [])
    host.take(2, 1, 0, NATURAL)
    host.take(7, 2, 1, flags)
    if anew:
        host.enter([2, 7], 2)
    assert host.matched == 1
    assert host.take(8, 3, 2, FORCED if not flags else NATURAL)
    assert host.phase_end.source is source
    host = FollowedSteering(request, [])
    host.take(7, 1, 0, 0)
    host.enter([2], 1)  # what was raised has been taken back
    host.take(7, 2, 1, NATURAL)
    host.take(8, 3, 2, NATURAL)
    assert host.phase_end.source is EosSource.NATURAL


def test_a_result_says_nothing_of_what_its_engine_does_not_tell():
    found = values(Finished(1, (), "", Verdict(FinishReason.LENGTH), 2, 0, EosTrace()))
    told = ("key", "token_ids", "text", "verdict", "prompt_tokens", "completion_tokens", "trace")
    assert {name: value for name, value in found.items() if name not in told} == {
        **dict.fromkeys(("lengths", "asked", "asked_before"), ()),
        **dict.fromkeys(("rewinds", "rewound_tokens", "cached_tokens", "reasoning_tokens"), 0),
        **dict.fromkeys(("end_token_id", "phase_end", "reasoning", "thought_closed", "logprobs", "choice_probs")),
        "in_thought": False,
    }
    assert values(EosTrace()) == {
        "prob_max": None, "step_max": None, "rank_max": None, "hidden_steps": 0, "probs": None
    }  # fmt: skip
