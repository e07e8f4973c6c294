"""One worker process: the Celery app with its task, in front of one engine.

A message only wakes: the task that it starts lets the service look into the ledger at once, for shards and for
fine-tunings of its model. The service looks every few seconds by itself, too.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from celery import Celery
from celery.exceptions import Ignore
from celery.worker import state
from celery.worker.worker import WorkController

from endmark.db.connection import Store, open_store
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.engines import OWN
from endmark.jobs.errors import EndmarkError
from endmark.jobs.launch.lives import LifeFile, Stage
from endmark.jobs.launch.workers import Launch, write_word
from endmark.jobs.patience import patiently
from endmark.jobs.progress import WorkerReport
from endmark.jobs.queue import FORMER_TASKS, WAKE_TASK, make_app, queue_name
from endmark.jobs.settings import Settings
from endmark.jobs.spelling import size
from endmark.worker.engine.choosing import ChoosingEngine
from endmark.worker.process.guarded import Guarded
from endmark.worker.process.logs import log_to_stderr
from endmark.worker.process.parent import when_parent_ends
from endmark.worker.process.periodic import Periodic
from endmark.worker.service import channel
from endmark.worker.service.deliveries import delivering
from endmark.worker.service.ending import EXIT_SERVER_AWAY, break_off, give_up, hear_all_threads
from endmark.worker.service.handover import HANDOVER
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.service import Pace, Service
from endmark.worker.shapes.compiled import Shapes

if TYPE_CHECKING:
    from endmark.worker.models.loaded import LoadedEngine

_LOOK = 5.0  # seconds between looks for a fine-tuning that is due
_SERVER_PAUSE = 3.0  # seconds between looks for a database or broker that is away at the start
_ENDS = (signal.SIGTERM, signal.SIGINT)
_CLOSE_WAIT = 10.0  # seconds for Celery to close its connections, once all rows are stored

log = logging.getLogger("worker")
Reached = TypeVar("Reached")


def main(line: str) -> int:
    """Load the engine, then consume until drained; return the exit code."""
    launch = Launch.from_json(line)
    name = f"{socket.gethostname()}:{os.getpid()}"
    log_to_stderr(f"worker:{os.getpid()}")
    life = LifeFile(launch.life)
    life.begin()
    orphaned = Orphaned()
    if launch.with_parent:
        when_parent_ends(lambda: orphaned.action())
    try:
        settings = Settings.load()
        with (
            _patiently(lambda: ensure_broker(settings)) as broker,
            _patiently(lambda: open_store(settings.database_url)) as store,
        ):
            if HANDOVER.offer(store, launch.options):
                life.reach(Stage.IDLE)
                return 0
            service = _load_service(launch, name, store, life)
            life.reach(Stage.IDLE)
            with delivering(store, settings):
                return consume(service, broker.url, launch, orphaned)
    except Exception as error:
        return give_up(error, launch.options.model, life)


@dataclass(slots=True)
class Orphaned:
    """What to do when the parent has ended: while the model loads, there is nothing to put in order."""

    action: Callable[[], None] = lambda: os._exit(0)


def _patiently(reach: Callable[[], Reached]) -> Reached:
    """Return what a server gives, waiting for one that is away: it may be restarting, as this process is."""
    return patiently(reach, _say_away, pause=_SERVER_PAUSE)


def _say_away(error: EndmarkError) -> None:
    """Log that a server is away."""
    log.warning("trying again: %s%s", error, f" (hint: {error.hint})" if error.hint else "")


def _load_service(launch: Launch, name: str, store: Store, life: LifeFile) -> Service:
    """Load the model and build the service around its engine."""
    from endmark.worker.service.engines import (
        load_chosen,  # seconds of imports, and no use before the options are read
    )

    options = launch.options
    loaded = load_chosen(
        options.engine,
        options.model,
        told=lambda word: _pass_on(launch, word),
        adapter=options.adapter,
        device=launch.device,
        weights=options.weights,
        kv_cache=options.kv_cache,
        trust_remote_code=options.trust_remote_code,
    )
    about = loaded.description
    log.info(
        "loaded %s on %s under the engine %s: %s weights of %s, KV cache of %d tokens",
        about.model,
        about.device,
        about.engine,
        about.weights,
        size(about.weight_bytes),
        about.kv_tokens,
    )
    rows = loaded.engine.capacity.rows
    identity = WorkerReport(
        name,
        about.device,
        options.model,
        options.adapter,
        about.weights,
        0.0,
        weight_bytes=about.weight_bytes,
        kv_tokens=about.kv_tokens,
        engine=about.engine,
    )
    if about.engine != OWN:
        HANDOVER.withdraw()
    service = Service(
        ChoosingEngine(loaded.engine),
        _prompter(loaded),
        store,
        identity,
        rows_ahead=rows_ahead(rows, about.device),
        fatal=lambda reason, stalled: break_off(life, reason, stalled=stalled),
        life=life,
        pace=Pace.of(options.lease, options.stall),
    )
    if options.metrics_port is not None:
        from endmark.worker.service.metrics import WorkerMetrics, serve_metrics

        metrics = WorkerMetrics(loaded.engine, service.meter, service.lease_age, store, identity)
        serve_metrics(metrics, options.metrics_host, options.metrics_port)
        log.info("metrics on %s, port %d", options.metrics_host, options.metrics_port)
    return service


def _prompter(loaded: "LoadedEngine") -> Prompter:
    """Return what makes the prompts of an engine's rows."""
    engine = loaded.engine
    shapes = Shapes(engine.vocabulary, engine.eos_ids, memory=loaded.mask_memory)
    return Prompter(loaded.tokenizer, shapes, engine.capacity.adapters)


def _pass_on(launch: Launch, word: str) -> None:
    """Log how this worker serves, and leave word of it for the process that started the supervisor."""
    log.warning("%s", word)
    if launch.report is not None:
        write_word(launch.report, word)


def rows_ahead(rows_at_once: int, device: str) -> int:
    """Return how many rows are to wait for a slot.

    Of more rows the engine can begin the largest budgets earlier, so that a job does not end with a few long
    rows; but no other worker can have those rows, which on a slow device would be its work of many minutes.
    """
    return 3 * rows_at_once if device == "cuda" else max(1, rows_at_once // 2)


def consume(service: Service, broker_url: str, launch: Launch, orphaned: Orphaned) -> int:
    """Take messages until drained; return the exit code."""
    options = launch.options
    channel.install()
    room = Periodic("fine-tunings", _LOOK, HANDOVER.look, broken=service.broken)

    def wake() -> None:
        room.wake()
        service.wake()

    app = bind_tasks(make_app(broker_url, queue_name(options.model, options.adapter)), wake)
    app.set_default()  # or Celery's threads make one, configured by the current folder's `celeryconfig.py`
    worker = WorkController(
        app=app,
        pool_cls="threads",
        concurrency=1,
        without_gossip=True,
        without_mingle=True,
        task_events=True,  # for Flower
        hostname=f"worker-{os.getpid()}@{socket.gethostname()}",
    )
    hear_all_threads(service.broken)
    early: list[int] = []  # signals of a worker that is not to begin: rows it has claimed meanwhile are drained
    for number in _ENDS:
        signal.signal(number, lambda number, _: early.append(number))
    service.start()
    room.start()
    draining = Guarded("drain", lambda: _drain(service, options.grace), service.broken)

    first = threading.Lock()  # a signal may come on the heels of the parent's end

    def begin() -> bool:
        """Begin to drain; return whether nobody had."""
        begun = first.acquire(blocking=False)
        if begun:
            log.info("draining: rows that run have %.0f s", options.grace)
            room.stop(timeout=0)  # one that came due now would end the grace, and keep the process
            draining.start()
        return begun

    def drain(*_: object) -> None:
        state.should_stop = 0  # Celery takes no further message
        if not begin():
            service.hurry()

    def stop_now() -> None:
        service.hurry()
        drain()

    for number in _ENDS:
        signal.signal(number, drain)
    if early:
        drain()
    orphaned.action = stop_now
    worker.start()
    begin()  # already under way, unless Celery gave up by itself and has logged why
    draining.join()
    return worker.exitcode or 0


def _drain(service: Service, grace: float) -> None:
    """Drain the service; then end the process, even if Celery waits for a broker that does not answer."""
    service.drain(grace)
    log.info("drained")
    last = threading.Timer(_CLOSE_WAIT, os._exit, (EXIT_SERVER_AWAY if HANDOVER.finetuning else 0,))
    last.daemon = True
    last.start()


def bind_tasks(app: Celery, wake: Callable[[], None]) -> Celery:
    """Give the app the tasks that wake, and take from it those that Celery brings along."""

    def woken(task: Any, *_args: Any, **_named: Any) -> None:  # noqa: ANN401
        """Wake, whatever the message says; nothing that it asks for follows."""
        request = task.request
        if request.callbacks or request.errbacks or request.chain or request.chord or request.group:
            log.warning("refused a message: it asks for other tasks to follow")
            raise Ignore
        wake()

    names = (WAKE_TASK, *FORMER_TASKS)
    for name in names:
        app.task(woken, name=name, bind=True, typing=False)
    app.finalize()
    for name in list(app.tasks):
        if name not in names:  # `celery.map` and others run whatever a message names
            app.tasks.unregister(name)
    return app


if __name__ == "__main__":
    code = main(sys.argv[1])
    logging.shutdown()
    HANDOVER.execute(sys.argv[1])
    os._exit(code)  # all is stored and closed; taking torch apart would cost a second or two
