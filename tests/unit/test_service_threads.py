"""The threads around the engine, one by one: the engine's own, the watchdog, what is done every so often."""

import threading
import time

import pytest

from endmark.jobs.errors import StoreError
from endmark.jobs.vocabulary import FinishReason
from endmark.worker.engine.engine import Engine
from endmark.worker.engine.request import Request
from endmark.worker.engine.scripted import ScriptedRunner
from endmark.worker.engine.text import Vocabulary
from endmark.worker.process.guarded import only_log
from endmark.worker.process.periodic import Periodic
from endmark.worker.service.engine_thread import EngineThread
from endmark.worker.service.speed import Speed
from endmark.worker.service.watchdog import Watchdog

pytestmark = pytest.mark.unit

VOCABULARY = Vocabulary([b""] + [bytes((index,)) for index in range(1, 100)])


class Running:
    """An engine thread over a scripted engine that counts down from each prompt's last token to EOS (0)."""

    def __init__(self, script=lambda tokens: max(0, tokens[-1] - 1), **options):
        self.done = {}
        self.broken = threading.Event()
        embeddings = options.pop("embeddings", None)
        engine = Engine(ScriptedRunner(script, **options), VOCABULARY, {0}, embeddings=embeddings)
        self.thread = EngineThread(engine, self._take, lambda *_: self.broken.set())
        self.thread.start()

    def _take(self, finished):
        self.done.update((item.key, item) for item in finished)

    def wait_for(self, count):
        deadline = time.monotonic() + 60
        while len(self.done) < count and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(self.done) == count


def request(key, last, budget=50):
    return Request(key=key, prompt_token_ids=[last], max_new_tokens=budget)


@pytest.fixture
def running():
    made = []

    def make(*arguments, **options):
        made.append(Running(*arguments, **options))
        return made[-1]

    yield make
    for item in made:
        item.thread.stop(5)


def test_the_engine_thread_returns_every_attempt(running):
    run = running()
    run.thread.submit([request(key, 1 + key % 20) for key in range(40)])
    run.wait_for(40)
    assert all(item.verdict.finish_reason is FinishReason.EOS for item in run.done.values())
    assert [len(run.done[key].token_ids) for key in range(5)] == [0, 1, 2, 3, 4]
    assert run.thread.row_steps == sum(1 + key % 20 for key in range(40))
    assert run.thread.step_began is None


def test_a_token_that_the_model_has_not_fails_its_row_alone(running):
    """One prompt killed the worker's process, eight times in twelve minutes."""
    run = running(embeddings=60)
    run.thread.submit([Request(1, [5, 60], 8), request(2, 3)])
    run.wait_for(2)
    assert run.done[1].verdict.finish_reason is FinishReason.ERROR
    assert "the token 60 `60`, and the model's embedding ends at 59: take it out" in run.done[1].verdict.error
    assert run.done[1].prompt_tokens == 2
    assert run.done[2].verdict.finish_reason is FinishReason.EOS
    assert not run.broken.is_set()


def test_a_prompt_that_is_too_long_fails_alone(running):
    run = running(context=16)
    run.thread.submit([Request(1, [5] * 16, 8), request(2, 3)])
    run.wait_for(2)
    assert run.done[1].verdict.finish_reason is FinishReason.ERROR
    assert "the prompt has 16 tokens" in run.done[1].verdict.error
    assert run.done[2].verdict.finish_reason is FinishReason.EOS


def test_hunger_counts_what_waits_for_a_slot(running):
    gate = threading.Event()

    def slow(tokens):
        gate.wait()
        return max(0, tokens[-1] - 1)

    run = running(slow, max_rows=2)
    assert run.thread.wait_hungry(1, 0)
    run.thread.submit([request(key, 5) for key in range(6)])
    assert not run.thread.wait_hungry(3, 0.05)
    gate.set()
    assert run.thread.wait_hungry(1, 5)
    run.wait_for(6)


def test_cancelled_attempts_are_not_returned(running):
    gate = threading.Event()

    def slow(tokens):
        gate.wait()
        return max(0, tokens[-1] - 1)

    run = running(slow)
    run.thread.submit([request(key, 5) for key in range(4)])
    run.thread.cancel({1, 3})
    gate.set()
    run.wait_for(2)
    assert set(run.done) == {0, 2}


def test_a_busy_thread_does_not_slow_the_engine_down(running):
    """It did by a hundred times: whoever lets go of the interpreter waited 5 ms to have it back."""

    def like_kernels(tokens):
        for _ in range(10):
            time.sleep(1e-5)  # lets go of the interpreter
        return max(0, tokens[-1] - 1)

    stop = threading.Event()

    def work():
        while not stop.is_set():
            sum(range(100))

    busy = threading.Thread(target=work)
    run = running(like_kernels)
    busy.start()
    took = []
    try:
        for count in (1, 2, 3):
            began = time.process_time()  # the busy thread spends all that is waited; other processes do not count
            run.thread.submit([request(count, 60, budget=100)])
            run.wait_for(count)
            took.append(time.process_time() - began)
        assert min(took) < 1  # 610 times 5 ms are 3 s
    finally:
        stop.set()
        busy.join()


def test_an_engine_that_raises_is_reported_broken(running, caplog):
    def broken(tokens):
        raise RuntimeError("device lost")

    run = running(broken)
    run.thread.submit([request(1, 5)])
    assert run.broken.wait(60)
    assert "device lost" in caplog.text


def watch(step_began, limit=0.1):
    bitten = threading.Event()
    dog = Watchdog(step_began, limit, interval=0.01, stalled=lambda _: bitten.set(), broken=only_log)
    dog.start()
    return dog, bitten


def test_the_watchdog_bites_when_one_step_takes_too_long(caplog):
    began = time.monotonic()
    dog, bitten = watch(lambda: began)
    assert bitten.wait(60)
    assert time.monotonic() - began > 0.1
    assert "stood still" in caplog.text
    dog.stop()


@pytest.mark.parametrize("step_began", [lambda: None, time.monotonic])
def test_the_watchdog_lets_an_idle_or_moving_engine_be(step_began):
    dog, bitten = watch(step_began)
    assert not bitten.wait(0.4)
    dog.stop()


def test_time_in_which_the_process_was_stopped_does_not_count(monkeypatch):
    """A SIGSTOP longer than the limit must not kill a healthy engine at SIGCONT."""
    bitten = threading.Event()
    dog = Watchdog(lambda: 1.0, 100.0, interval=0.01, stalled=lambda _: bitten.set(), broken=only_log)
    clock = iter([0.0, 0.01, 5000.0, 10_000.0])
    monkeypatch.setattr("endmark.worker.service.watchdog.time.monotonic", lambda: next(clock, 10_000.01))
    dog.start()
    assert not bitten.wait(0.2)
    dog.stop()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreError("no database", hint="start it"), "reaper: no database (start it)"),
        (ZeroDivisionError("by zero"), "reaper: a bug in Endmark"),
    ],
)
def test_what_is_done_every_so_often_goes_on_after_an_error(caplog, error, said):
    """A bug too: it had ended the thread alone, and a worker without its heartbeat loses what it runs."""
    calls = []
    enough = threading.Event()

    def action():
        calls.append(1)
        if len(calls) >= 6:
            enough.set()
        if 2 <= len(calls) <= 4:
            raise error

    periodic = Periodic("reaper", 0.001, action)
    periodic.start()
    assert enough.wait(60)
    periodic.stop()
    assert [record.getMessage() for record in caplog.records] == [said]
    assert bool(caplog.records[0].exc_info) is not isinstance(error, StoreError)


def test_speed_is_over_the_last_seconds():
    now, count = [0.0], [0]
    speed = Speed(lambda: count[0], window=10, clock=lambda: now[0])
    assert speed.per_second() == 0
    for _ in range(30):
        now[0] += 1
        count[0] += 100
        assert speed.per_second() == 100
    for _ in range(12):
        now[0] += 1
        last = speed.per_second()
    assert last == 0
