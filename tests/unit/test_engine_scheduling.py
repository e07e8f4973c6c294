"""The scheduler against a scripted runner: batching, pages, preemption and the step behind change no answer."""

import itertools
import random

import pytest

from endmark.jobs.errors import PromptTooLong, TokenUnknown
from endmark.jobs.landing import START, advance
from endmark.jobs.strategies import build_strategies
from endmark.jobs.vocabulary import FinishReason
from endmark.worker.engine.answer import Answer
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.flags import NATURAL
from endmark.worker.engine.plan import StepPlan
from endmark.worker.engine.request import Finished, Request
from endmark.worker.engine.row import RowState
from endmark.worker.engine.scheduler import Scheduler
from endmark.worker.engine.scripted import Sampled, ScriptedRunner
from endmark.worker.engine.text import Vocabulary
from endmark.worker.engine.waiting import WaitingRows

pytestmark = pytest.mark.unit

EOS = 0
VOCABULARY = Vocabulary([b""] + [f"<{index}>".encode() for index in range(1, 100)])


def hash_script(tokens):
    """The next token depends on every token before it, so a wrong page shows in the answer."""
    value = hash(tuple(tokens)) % 97
    return value if value < 96 else EOS


def run(requests, **options) -> tuple[dict[int, Finished], Engine, ScriptedRunner]:
    runner = ScriptedRunner(options.pop("script", hash_script), **options)
    engine = Engine(runner, VOCABULARY, {EOS})
    for request in requests:
        engine.add(request)
    done = {}
    for _ in range(100_000):
        if not engine.has_work:
            break
        for finished in engine.step():
            assert finished.key not in done
            done[finished.key] = finished
    assert not engine.has_work
    return done, engine, runner


def alone(request) -> list[int]:
    """What the script says, one token after another."""
    tokens, answer = list(request.prompt_token_ids), []
    while len(answer) < request.max_new_tokens:
        token = hash_script(tokens)
        if token == EOS:
            break
        tokens.append(token)
        answer.append(token)
    return answer


def make_requests(count, seed):
    rng = random.Random(seed)
    return [
        Request(
            key=key,
            prompt_token_ids=[rng.randrange(1, 90) for _ in range(rng.randrange(1, 20))],
            max_new_tokens=rng.randrange(1, 40),
        )
        for key in range(count)
    ]


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("num_pages", [16, 40, 400])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_row_gets_the_tokens_it_would_get_alone(overlaps, num_pages, seed):
    requests = make_requests(60, seed)
    done, engine, _ = run(requests, overlaps=overlaps, num_pages=num_pages)
    assert sorted(done) == list(range(60))
    for request in requests:
        expected = alone(request)
        finished = done[request.key]
        assert list(finished.token_ids) == expected
        ended = len(expected) < request.max_new_tokens
        assert finished.verdict.finish_reason is (FinishReason.EOS if ended else FinishReason.LENGTH)
        assert finished.text == "".join(f"<{token}>" for token in expected)
    if num_pages == 16:
        assert engine.preemptions > 0


def test_all_pages_and_slots_come_back():
    _, engine, runner = run(make_requests(30, 5), num_pages=20)
    scheduler = engine._scheduler
    assert scheduler._pool.free == runner.num_pages
    assert sorted(scheduler._slots) == list(range(runner.max_rows))


def test_a_common_prefix_is_computed_once():
    prefix = list(range(1, 41))
    requests = [Request(key=key, prompt_token_ids=[*prefix, 50 + key], max_new_tokens=5) for key in range(6)]
    done, _, runner = run(requests, prefill_tokens=64, num_pages=100)
    for request in requests:
        assert list(done[request.key].token_ids) == alone(request)
    computed = sum(row.end - row.cached for plan in runner.plans for row in plan.prefill)
    assert computed == 41 + 5 * 1
    assert sorted(item.cached_tokens for item in done.values()) == [0, *[40] * 5]


def prefills(runner) -> list[StepPlan]:
    return [plan for plan in runner.plans if plan.prefill]


@pytest.mark.parametrize("num_pages", [20, 400])
def test_a_step_computes_no_more_tokens_than_its_budget(num_pages):
    """The budget was never used up: any number of prompts went into one prefill, whose memory was not there."""
    rng = random.Random(4)
    lengths = [5, 40, 5, 20, 13, 33, 7, 32, 31, 1, 12, 50]
    requests = [
        Request(key=key, prompt_token_ids=[rng.randrange(1, 90) for _ in range(length)], max_new_tokens=8)
        for key, length in enumerate(lengths)
    ]
    _, engine, runner = run(requests, prefill_tokens=32, num_pages=num_pages)
    tokens = [
        [len(plan.decode.slots), *(row.end - row.cached for row in plan.prefill)] for plan in prefills(runner)
    ]
    assert all(sum(rows) <= 32 for rows in tokens), tokens
    assert any(len(rows) > 2 for rows in tokens)
    assert any(plan.decode.slots and any(row.left for row in plan.prefill) for plan in runner.plans)
    if not engine.preemptions:
        assert sum(sum(rows[1:]) for rows in tokens) == sum(lengths)


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("num_pages", [12, 60])
def test_prompts_in_pieces_give_the_tokens_of_prompts_at_once(overlaps, num_pages):
    """Prompts that begin alike too: a page that a later piece computes is not shared before it is."""
    rng = random.Random(6)
    front = [rng.randrange(1, 90) for _ in range(24)]
    requests = [
        Request(
            key=key,
            prompt_token_ids=[
                *front[: rng.randrange(25)],
                *(rng.randrange(1, 90) for _ in range(rng.randrange(1, 16))),
            ],
            max_new_tokens=rng.randrange(1, 8),
        )
        for key in range(40)
    ]
    done, _, runner = run(requests, overlaps=overlaps, num_pages=num_pages, prefill_tokens=12)
    assert all(list(done[request.key].token_ids) == alone(request) for request in requests)
    pieces = [row for plan in runner.plans for row in plan.prefill if row.left]
    assert len(pieces) > 20
    assert all(row.end % runner.page_size == 0 for row in pieces)


def test_running_rows_are_not_stopped_by_prompts():
    """Prefill and decode took turns: every row waited for the prompt of every other."""
    requests = [Request(key=key, prompt_token_ids=[key + 1] * 30, max_new_tokens=9) for key in range(12)]
    _, _, runner = run(requests, script=lambda tokens: 7, max_rows=4, prefill_tokens=16, num_pages=200)
    mixed = [plan for plan in prefills(runner) if plan.decode.slots]
    assert len(mixed) > 5
    running: dict[int, int] = {}  # by slot, tokens that are still to come
    for plan in runner.plans:
        assert set(plan.decode.slots) == {slot for slot, left in running.items() if left}
        running.update((slot, running[slot] - 1) for slot in plan.decode.slots)
        running.update((row.slot, 8) for row in plan.ending)


def test_a_prompt_far_longer_than_others_is_given_a_share_of_their_time():
    """It stopped all others for as long as it takes by itself, in one piece or in several one after the other."""
    short = [Request(key=key, prompt_token_ids=[key % 90 + 1] * 12, max_new_tokens=30) for key in range(60)]
    long = Request(key=99, prompt_token_ids=[95] * 3000, max_new_tokens=31)  # the first in the order of budgets
    options = {
        "script": lambda tokens: 7,
        "max_rows": 16,
        "num_pages": 2000,
        "context": 4000,
        "prefill_tokens": 256,
        "piece_tokens": 64,
    }

    def cost(plan):
        return sum(row.end - row.cached for row in plan.prefill) + len(plan.decode.slots) + 8

    _, _, runner = run(short, **options)
    before = sum(map(cost, runner.plans))
    done, _, runner = run([long, *short], **options)
    assert len(done[99].token_ids) == 31
    last = max(index for index, plan in enumerate(runner.plans) if len(plan.decode.slots) > 1)
    assert sum(map(cost, runner.plans[: last + 1])) < 1.1 * before
    pieces = [(index, row) for index, plan in enumerate(runner.plans) for row in plan.prefill if row.left]
    beside = [row.end - row.cached for index, row in pieces if index <= last and len(row.token_ids) == 3000]
    assert len(beside) > 3, "a weak example"
    assert {row.end - row.cached for index, row in pieces if index > last} == {256}, "alone it has whole steps"


def test_beside_a_single_row_a_long_prompt_has_half_of_the_time():
    """With a twelfth it began when the other had ended: two rows one after the other."""
    requests = [Request(0, [1] * 12, 400), Request(1, [2] * 3000, 300)]
    options = {"num_pages": 2000, "context": 4000, "prefill_tokens": 256, "piece_tokens": 64}
    _, _, runner = run(requests, script=lambda tokens: 7, **options, weight_tokens=64)
    together = sum(len(plan.decode.slots) == 2 for plan in runner.plans)
    assert together > 250


def test_where_all_prompts_are_long_none_waits():
    requests = [Request(key=key, prompt_token_ids=[key + 1] * 600, max_new_tokens=5) for key in range(12)]
    options = {"script": lambda tokens: 7, "max_rows": 4, "num_pages": 2000, "context": 700, "prefill_tokens": 64}
    _, _, runner = run(requests, **options)
    assert sum(len(plan.prefill) == 0 for plan in runner.plans) < 6
    assert len(runner.plans) < 12 * 600 / 60 + 10


def test_a_prefill_uses_its_budget_to_the_last_token():
    requests = [Request(key=key, prompt_token_ids=[key + 1] * 8, max_new_tokens=2) for key in range(5)]
    _, _, runner = run(requests, prefill_tokens=32)
    assert [len(plan.prefill) for plan in prefills(runner)] == [4, 1]


@pytest.mark.parametrize("length", [4, 8, 12, 13])
def test_of_equal_prompts_a_token_is_left_to_compute(length):
    """A prompt of whole pages was shared to its end; there was nothing to compute its next token from."""
    prompt = list(range(1, length + 1))
    requests = [Request(key=key, prompt_token_ids=prompt, max_new_tokens=3) for key in range(3)]
    done, _, runner = run(requests, page_size=4)
    rows = [row for plan in prefills(runner) for row in plan.prefill]
    assert all(row.cached < len(row.token_ids) for row in rows)
    assert [row.cached for row in rows[1:]] == [length - 1] * 2, "the front of a page is copied"
    assert all(list(done[request.key].token_ids) == alone(request) for request in requests)


def test_no_prefill_begins_before_enough_slots_are_free():
    """A prefill of a row or two costs as much as one of many."""
    requests = [Request(key=key, prompt_token_ids=[key + 1] * 3, max_new_tokens=5 + key % 7) for key in range(20)]
    _, _, runner = run(requests, script=lambda tokens: 7, max_rows=8, refill=3, num_pages=400)
    sizes = [len(plan.prefill) for plan in prefills(runner)]
    assert sum(sizes) == 20
    assert all(size >= 3 for size in sizes[:-1]), sizes


def test_a_refill_that_one_step_has_no_tokens_for_goes_on_in_the_next():
    """It ended with the step: the other free slots waited until enough of them were free once more."""
    requests = [Request(key=key, prompt_token_ids=[key + 1] * 12, max_new_tokens=20) for key in range(40)]
    options = {"max_rows": 8, "refill": 4, "num_pages": 400, "prefill_tokens": 48, "piece_tokens": 16}
    _, _, runner = run(requests, script=lambda tokens: 7, **options)
    for before, plan in itertools.pairwise(runner.plans[:-40]):
        free = 8 - len(before.decode.slots) - len(before.prefill)
        if before.prefill and free and free < 4:
            assert plan.prefill, "slots are free, and rows wait"


def test_a_row_that_waits_alone_is_not_kept_waiting_for_others():
    """With fewer rows waiting than a prefill should have, those are all that it can have."""
    runner = ScriptedRunner(lambda tokens: 7, max_rows=4, refill=3)
    engine = Engine(runner, VOCABULARY, {EOS})
    for key in range(2):
        engine.add(Request(key=key, prompt_token_ids=[key + 1] * 3, max_new_tokens=30))
    engine.step()
    engine.add(Request(key=2, prompt_token_ids=[3] * 3, max_new_tokens=30))
    engine.step()
    assert [len(plan.prefill) for plan in prefills(runner)] == [2, 1]


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_row_is_not_run_beyond_its_budget(overlaps):
    """The step that is launched before its last token has been read would be for nothing."""
    requests = [Request(key=key, prompt_token_ids=[1, 2, 3], max_new_tokens=3 + key) for key in range(5)]
    _, engine, _ = run(requests, script=lambda tokens: 7, overlaps=overlaps)
    assert engine.row_steps == sum(request.max_new_tokens for request in requests)


def test_rows_that_share_take_only_the_pages_that_they_do_not_share():
    engine = Engine(ScriptedRunner(lambda tokens: 7, page_size=4), VOCABULARY, {EOS})
    for key in range(3):
        engine.add(Request(key=key, prompt_token_ids=[*range(1, 13), 20 + key], max_new_tokens=3))
    engine.step()
    assert engine.pages == (3 + 3, 64)


def test_an_attempt_that_goes_on_counts_its_positions_from_the_answers_begin():
    """Else it repeats the random numbers of the attempt before it; its prompt is the prompt alone."""
    request = Request(key=0, prompt_token_ids=[1, 2], answer_token_ids=[7, 7, 7], max_new_tokens=3)
    done, _, runner = run([request], script=lambda tokens: 7)
    (row,) = prefills(runner)[0].prefill
    assert (row.token_ids, row.step, row.position) == ((1, 2, 7, 7, 7), 0, 3)
    decodes = [plan.decode for plan in runner.plans if plan.decode.slots]
    assert [(plan.steps, plan.positions) for plan in decodes] == [([1], [4]), ([2], [5])]
    assert (done[0].prompt_tokens, done[0].completion_tokens, len(done[0].token_ids)) == (2, 3, 6)


def test_a_newcomer_leaves_each_running_row_room_for_a_page():
    """Else it takes the last pages, and is preempted in the next step: computed twice, for nothing."""
    requests = [Request(key=key, prompt_token_ids=[key + 1] * 4, max_new_tokens=3) for key in range(2)]
    for num_pages, together in ((3, False), (4, True)):
        _, engine, runner = run(
            requests, script=lambda tokens: 7, page_size=4, num_pages=num_pages, context=12, prefill_tokens=4
        )
        assert (len(runner.plans[1].decode.slots), len(runner.plans[1].prefill)) == (1, int(together))
        assert together or engine.preemptions == 0


def rows_of(*lengths):
    """Return rows with prompts of so many tokens, none of which begin alike."""
    requests = [Request(key, [key + 1] * length, 30) for key, length in enumerate(lengths)]
    return [RowState(Answer(request, VOCABULARY, request.max_new_tokens)) for request in requests]


@pytest.mark.parametrize(("strategy", "told"), [("soft-landing", True), ("baseline", False)])
def test_the_device_is_told_how_the_text_stands_where_a_row_goes_on(strategy, told):
    """One that was preempted inside a sentence would find a landing spot behind it."""
    vocabulary = Vocabulary([b"", b"It is", b" a list:", b"\n- one"])
    begun, state = (1, 2, 3), advance(START, b"It is a list:\n- one")
    request = Request(1, [1], 30, strategies=build_strategies([strategy]), answer_token_ids=begun)
    row = RowState(Answer(request, vocabulary, 30))
    assert state != START
    assert row.plan([1, *begun], 0).sentence_state == (state if told else 0)


def test_a_row_that_preempts_itself_is_not_admitted_in_the_same_step():
    """Its last token is in flight: it would have been computed again without it."""
    scheduler = Scheduler(ScriptedRunner(lambda tokens: 7, page_size=4, num_pages=4, context=16, overlaps=True))
    running, waiting = rows_of(7, 8)
    scheduler.add(running)
    scheduler.add(waiting)
    waiting.pages = scheduler._pool.take(2)  # as one that was taken back
    for _ in range(2):  # its prompt, and the token that fills its second page
        assert scheduler.schedule()[1] == [running]
    assert scheduler.schedule() is None, "there is no page for the next one"
    assert running.slot < 0
    running.answer.see(7, 0.0, 0, NATURAL, is_eos=False)
    running.answer.see(7, 0.0, 0, NATURAL, is_eos=False)
    plan, _ = scheduler.schedule()
    assert len(plan.prefill[0].token_ids) == 9, "the one that waits has let its pages go"


def test_a_row_that_is_taken_back_in_its_prompt_keeps_what_was_computed():
    scheduler = Scheduler(ScriptedRunner(lambda tokens: 7, page_size=4, prefill_tokens=8))
    (row,) = rows_of(24)
    scheduler.add(row)
    plan, rows = scheduler.schedule()
    assert (rows, plan.prefill[0].end, plan.prefill[0].left) == ([], 8, 16)
    first = row.pages[:2]
    scheduler.take_back(row)
    assert row.pages == first
    plan, _ = scheduler.schedule()
    assert (plan.prefill[0].cached, plan.prefill[0].end) == (8, 16)


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_row_comes_back_with_every_token_that_was_asked_for_it(overlaps):
    """It may be preempted with a step in flight, which is read before the next prefill is planned."""
    requests = make_requests(40, 2)
    _, engine, runner = run(requests, overlaps=overlaps, num_pages=16)
    assert engine.preemptions > 0
    again = [row for plan in prefills(runner) for row in plan.prefill if row.step > 0]
    assert again
    lengths = {tuple(request.prompt_token_ids): len(request.prompt_token_ids) for request in requests}
    for row in again:
        prompts = [length for ids, length in lengths.items() if tuple(row.token_ids[:length]) == ids]
        assert row.step in [len(row.token_ids) - length for length in prompts]
        assert row.position == row.step


def test_a_decode_step_has_its_longest_rows_first():
    """On a GPU the rows' attention starts in this order: a long row that started last would run on alone."""
    _, _, runner = run(make_requests(30, 5), num_pages=20)
    lengths = [list(plan.decode.lengths) for plan in runner.plans]
    assert max(len(set(step)) for step in lengths) > 3
    assert all(step == sorted(step, reverse=True) for step in lengths)


def admitted(runner) -> list[int]:
    """The first tokens of the prompts, in the order in which they got a slot."""
    return [row.token_ids[0] for plan in runner.plans for row in plan.ending]


def test_the_largest_budgets_begin_first_and_equal_ones_in_their_order():
    """Else a batch ends with a few long rows that began last, while all other slots are empty."""
    budgets = [3, 9, 5, 9, 1, 5]
    requests = [
        Request(key=k, prompt_token_ids=[k + 1], max_new_tokens=tokens) for k, tokens in enumerate(budgets)
    ]
    _, _, runner = run(requests, script=lambda tokens: 7, max_rows=1)
    assert admitted(runner) == [2, 4, 3, 6, 1, 5]


def test_a_preempted_row_is_the_next_whatever_its_budget():
    runner = ScriptedRunner(
        lambda tokens: 7, max_rows=2, num_pages=5, page_size=64, prefill_tokens=512, context=400
    )
    engine = Engine(runner, VOCABULARY, {EOS})
    for key, budget in ((0, 70), (1, 69)):
        engine.add(Request(key=key, prompt_token_ids=[key + 1] * 65, max_new_tokens=budget))
    engine.step()
    engine.step()
    engine.add(Request(key=2, prompt_token_ids=[3] * 65, max_new_tokens=250))
    while engine.has_work:
        engine.step()
    assert engine.preemptions == 1
    assert admitted(runner) == [1, 2, 2, 3]


def test_of_preempted_rows_the_older_comes_back_first():
    """The youngest is preempted first, so the last that was is the oldest of them."""
    waiting = WaitingRows(2)
    newcomer, younger, older = (
        RowState(Answer(Request(key=key, prompt_token_ids=[1], max_new_tokens=9), VOCABULARY, 9))
        for key in range(3)
    )
    waiting.add(newcomer)
    waiting.put_back(younger)
    waiting.put_back(older)
    order = []
    while waiting:
        order.append(waiting.first)
        waiting.admit()
    assert order == [older, younger, newcomer]


def test_a_small_budget_is_not_overtaken_for_ever():
    """Another job's rows of large budgets keep coming, as from an overnight job on the same worker."""
    runner = ScriptedRunner(lambda tokens: tokens[0], max_rows=2, context=400)
    engine = Engine(runner, VOCABULARY, {EOS})
    engine.add(Request(key=0, prompt_token_ids=[99], max_new_tokens=1))
    key, order = 0, []
    while 99 not in order and key < 100:
        while engine.waiting < 4:
            key += 1
            engine.add(Request(key=key, prompt_token_ids=[key % 90 + 1], max_new_tokens=300))
        engine.step()
        order = admitted(runner)
    assert 7 < order.index(99) < 12  # 299 tokens more are 2.3 batches, and 4 rows were there at the same time


def test_a_prompt_that_fills_the_context_is_refused():
    engine = Engine(ScriptedRunner(hash_script, context=32), VOCABULARY, {EOS})
    with pytest.raises(PromptTooLong, match="32 tokens and the model's context holds 32"):
        engine.add(Request(key=1, prompt_token_ids=[1] * 32, max_new_tokens=5))
    engine.add(Request(key=1, prompt_token_ids=[1] * 31, max_new_tokens=5))


def test_the_budget_ends_with_the_context():
    requests = [Request(key=0, prompt_token_ids=[1] * 30, max_new_tokens=50)]
    done, _, _ = run(requests, script=lambda tokens: 7, context=32)
    assert done[0].token_ids == (7, 7)
    assert done[0].verdict.finish_reason is FinishReason.LENGTH


def test_a_token_beyond_the_embedding_is_refused_by_its_name():
    """It ended the worker's process, on a GPU with all its rows, eight times in twelve minutes."""
    runner = ScriptedRunner(lambda tokens: 7)
    engine = Engine(runner, VOCABULARY, {EOS}, embeddings=90, token_name={90: "[PAD]", 91: None}.get)
    with pytest.raises(TokenUnknown, match=r"the token 90 `\[PAD\]`, and the model's embedding ends at 89"):
        engine.add(Request(key=1, prompt_token_ids=[1, 90, 2], max_new_tokens=5))
    with pytest.raises(TokenUnknown, match="91"):
        engine.add(Request(key=1, prompt_token_ids=[1], answer_token_ids=[91], max_new_tokens=5))
    assert not engine.has_work
    engine.add(Request(key=1, prompt_token_ids=[89], max_new_tokens=1))
    assert [finished.key for finished in engine.step()] == [1]


@pytest.mark.parametrize("overlaps", [False, True])
def test_cancelled_rows_never_come_back(overlaps):
    engine = Engine(ScriptedRunner(lambda tokens: 7, overlaps=overlaps, max_rows=2), VOCABULARY, {EOS})
    for key in range(4):
        engine.add(Request(key=key, prompt_token_ids=[1, 2, 3], max_new_tokens=6))
    engine.step()
    engine.step()
    engine.cancel({0, 3})
    done = []
    while engine.has_work:
        done += [finished.key for finished in engine.step()]
    assert sorted(done) == [1, 2]


@pytest.mark.parametrize("overlaps", [False, True])
def test_an_attempt_that_goes_on_from_an_answer_finds_its_pages(overlaps):
    """`continue`, and the next turn of a chat, computed the whole conversation again."""
    first = Request(0, list(range(1, 20)), 21)
    runner = ScriptedRunner(hash_script, overlaps=overlaps)
    engine = Engine(runner, VOCABULARY, {EOS})

    def answer(request):
        engine.add(request)
        done = []
        while engine.has_work:
            done += engine.step()
        return done[0]

    tokens = [*first.prompt_token_ids, *answer(first).token_ids]
    again = answer(Request(1, [*tokens, 5, 6], 9))
    assert again.cached_tokens == (len(tokens) - 1) // runner.page_size * runner.page_size
    assert again.token_ids == tuple(alone(Request(1, [*tokens, 5, 6], 9)))


def test_what_a_failed_row_has_computed_is_not_found_again():
    """Its keys and values may be no numbers."""

    def broken(tokens):
        return Sampled(5, eos_prob=float("nan")) if len(tokens) == 15 else 7

    runner = ScriptedRunner(broken)
    engine = Engine(runner, VOCABULARY, {EOS})
    engine.add(Request(0, [1, 2, 3], 30))
    (failed,) = [finished for _ in range(40) for finished in engine.step()]
    assert failed.verdict.end.failed
    engine.add(Request(1, [1, 2, 3, *[7] * 8], 2))
    (again,) = [finished for _ in range(9) for finished in engine.step()]
    assert again.cached_tokens == 0


def test_a_cache_that_a_row_fills_has_no_page_to_copy_from():
    """Holding the page of the row before while it is copied from left one too few, and nothing ran any more."""
    prompt = list(range(1, 14))
    requests = [Request(key, prompt, 3) for key in range(2)]
    done, engine, _ = run(requests, num_pages=4, page_size=4, max_rows=1)
    assert [list(done[key].token_ids) for key in range(2)] == [alone(request) for request in requests]
    assert engine.pages[0] == 0
