"""What holds after every step of the scheduler, whatever comes: its slots, pages, tokens and plans add up."""

import random
from collections import Counter

import pytest

from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.engine.scripted import ScriptedRunner
from tests.unit.test_engine_scheduling import EOS, VOCABULARY, hash_script

pytestmark = pytest.mark.unit


class Watched(ScriptedRunner):
    """A runner that checks each plan, and what the scheduler holds, before it runs it."""

    scheduler = None

    def launch(self, plan):
        check_rows(self)
        check_plan(self, plan)
        return super().launch(plan)


def check_rows(runner):
    """Every slot and page belongs to whom it says, and none to nobody."""
    scheduler, pool = runner.scheduler, runner.scheduler._pool
    running, waiting = scheduler.running, list(scheduler._waiting)
    assert sorted(scheduler._slots + [row.slot for row in running]) == list(range(runner.max_rows))
    assert all(row.slot == -1 for row in waiting)
    users = Counter(page for row in (*running, *waiting) for page in row.pages) + Counter(scheduler._sources)
    assert {page: count for page, count in enumerate(pool._users) if count} == dict(users)
    assert set(pool._free) == set(range(pool.num_pages)) - users.keys()
    assert scheduler.pages == (len(users), pool.num_pages)
    assert scheduler._waiting.tokens == sum(row.prompt_length for row in waiting)
    for row in running:
        assert len(row.pages) == len(set(row.pages))
        needed = (
            row.front if row.prefilling else row.length - 1
        )  # the last token asked for comes with the next step
        assert len(row.pages) == -(-needed // runner.page_size)
        assert 0 <= row.launched <= row.budget
        assert row.answer.generated <= row.launched <= row.answer.generated + 1 + runner.overlaps


def check_plan(runner, plan):
    """A step writes each place once, no more tokens than it may, and tells of each row what the row is."""
    size, decode = runner.page_size, plan.decode
    by_slot = {row.slot: row for row in runner.scheduler.running}
    assert len(set(plan.slots)) == len(plan.slots)
    assert list(decode.lengths) == sorted(decode.lengths, reverse=True)
    written = Counter()
    for slot, length, step, position in zip(
        decode.slots, decode.lengths, decode.steps, decode.positions, strict=True
    ):
        row = by_slot[slot]
        assert (step, length) == (row.launched - 1, row.prompt_length + row.launched - 2)
        assert position == row.position - 1
        written[row.pages[length // size], length % size] += 1
        assert runner.scheduler._pool._users[row.pages[length // size]] == 1, "others read what it writes over"
    for slot, index, page in decode.new_pages:
        assert by_slot[slot].pages[index] == page
        assert index == len(by_slot[slot].pages) - 1
    for item in plan.prefill:
        row = by_slot[item.slot]
        assert item.pages == tuple(row.pages)
        assert item.token_ids == tuple(row.token_ids)
        assert item.cached < item.end == row.computed <= row.front == len(item.token_ids)
        assert not item.left or item.end % size == 0
        assert not item.asked_before or not item.left or item.end < row.front - len(item.asked_before)
        if item.copied is not None:
            begin = item.cached - item.copied.tokens
            assert (item.pages[begin // size], begin % size) == (item.copied.page, 0)
            assert 0 < item.copied.tokens < size
            written.update((item.copied.page, at) for at in range(item.copied.tokens))
        written.update((item.pages[at // size], at % size) for at in range(item.cached, item.end))
    assert max(written.values()) == 1
    tokens = len(decode.slots) + sum(item.end - item.cached for item in plan.prefill)
    half = runner.piece_tokens / 2
    pieces = -(-(len(decode.slots) + half) // runner.piece_tokens) if decode.slots else runner.prefill_tokens
    most = min(pieces * runner.piece_tokens, runner.prefill_tokens)
    assert tokens <= max(most, len(decode.slots) + size)


def requests_like(rng, count):
    """Return requests many of whose prompts begin alike, or are the same."""
    fronts = [[rng.randrange(1, 90) for _ in range(30)] for _ in range(3)]
    found = []
    for key in range(count):
        front = rng.choice(fronts)[: rng.randrange(31)]
        prompt = [*front, *(rng.randrange(1, 90) for _ in range(rng.randrange(1, 9)))]
        begun = [rng.randrange(1, 90) for _ in range(rng.choice([0, 0, 0, 3]))]
        asks = not begun and rng.random() < 0.2
        before = [[5], [6, 7]][: max(0, len(prompt) - 1)] if asks else []
        found.append(
            Request(
                key,
                prompt,
                1 if asks else rng.randrange(1, 30),
                answer_token_ids=tuple(begun),
                asked=[3] if asks else (),
                asked_before=before,
            )
        )
    return found


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("num_pages", [14, 24, 300])
@pytest.mark.parametrize("piece", [8, 24, None])
def test_slots_pages_and_plans_add_up_after_every_step(overlaps, num_pages, piece):
    for seed in range(4):
        rng = random.Random(seed)
        runner = Watched(
            hash_script,
            num_pages=num_pages,
            overlaps=overlaps,
            piece_tokens=piece,
            prefill_tokens=24,
            context=50,
            refill=1 + seed % 3,
            max_rows=5,
        )
        engine = Engine(runner, VOCABULARY, {EOS})
        runner.scheduler = engine._scheduler
        waiting = requests_like(rng, 60)
        given, dropped, done = list(waiting), set(), {}
        while waiting or engine.has_work:
            for _ in range(rng.randrange(4)):
                if waiting:
                    engine.add(waiting.pop())
            if rng.random() < 0.1:
                gone = {rng.randrange(60), rng.randrange(60)} - done.keys() - {item.key for item in waiting}
                engine.cancel(gone)
                dropped |= gone
            for finished in engine.step():
                assert finished.key not in done
                done[finished.key] = finished
        check_rows(runner)
        assert engine.pages[0] == 0
        assert done.keys() | dropped == {item.key for item in given}
        assert not done.keys() & dropped
        assert engine.steps == len(runner.plans)
        assert engine.row_steps == sum(len(plan.slots) for plan in runner.plans)
        for item in given:
            if item.key in done:
                check_answer(item, done[item.key])


def check_answer(request, finished):
    """It is what the script says, one token after another."""
    tokens, answer = [*request.prompt_token_ids, *request.answer_token_ids], []
    budget = min(request.max_new_tokens, 50 - len(tokens))
    while len(answer) < budget and (token := hash_script(tokens)) != EOS:
        tokens.append(token)
        answer.append(token)
    assert finished.token_ids == (*request.answer_token_ids, *answer)
    assert finished.prompt_tokens == len(request.prompt_token_ids)
    assert finished.completion_tokens == len(answer)
    assert 0 <= finished.cached_tokens < len(request.prompt_token_ids) or not finished.cached_tokens
