"""One worker process: the Celery app with its two tasks, in front of one engine.

A message only notifies. The task that it starts claims the fairest due shard of the worker's model, whichever
shard the message named, and goes on to the next until none is due. The other task makes room for a fine-tuning.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from celery import Celery
from celery.exceptions import Ignore
from celery.worker import state
from celery.worker.worker import WorkController

from endmark.db.connection import Store, open_store
from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.errors import EndmarkError, MessageRefused
from endmark.jobs.launch.lives import LifeFile, Stage
from endmark.jobs.launch.workers import WorkerOptions
from endmark.jobs.patience import patiently
from endmark.jobs.progress import WorkerReport
from endmark.jobs.queue import (
    FINETUNE_TASK,
    TASK_NAME,
    decode_finetuning,
    decode_message,
    make_app,
    queue_name,
    send_shards,
    waiting_messages,
)
from endmark.jobs.settings import Settings
from endmark.jobs.spelling import size
from endmark.jobs.vocabulary import ShardKey
from endmark.worker.process.guarded import Guarded
from endmark.worker.process.logs import log_to_stderr
from endmark.worker.process.options import Arguments, parse
from endmark.worker.process.parent import when_parent_ends
from endmark.worker.service import channel
from endmark.worker.service.deliveries import delivering
from endmark.worker.service.ending import EXIT_SERVER_AWAY, break_off, give_up, hear_all_threads
from endmark.worker.service.handover import HANDOVER
from endmark.worker.service.prompting import Prompter
from endmark.worker.service.service import Pace, Service

_MESSAGES_WAITING = 64  # any one of them wakes an idle worker
_SERVER_PAUSE = 3.0  # seconds between looks for a database or broker that is away at the start
_CLOSE_WAIT = 10.0  # seconds for Celery to close its connections, once all rows are stored

log = logging.getLogger("worker")
Reached = TypeVar("Reached")


def main(words: Sequence[str]) -> int:
    """Load the engine, then consume until drained; return the exit code."""
    arguments = parse(words)
    name = f"{socket.gethostname()}:{os.getpid()}"
    log_to_stderr(f"worker:{os.getpid()}")
    life = LifeFile(arguments.life)
    life.begin()
    orphaned = Orphaned()
    if arguments.with_parent:
        when_parent_ends(lambda: orphaned.action())
    try:
        settings = Settings.load()
        with (
            _patiently(lambda: ensure_broker(settings)) as broker,
            _patiently(lambda: open_store(settings.database_url)) as store,
        ):
            if HANDOVER.offer(store, arguments.options):
                life.reach(Stage.IDLE)
                return 0
            service = _load_service(arguments, name, store, broker.url, life)
            life.reach(Stage.IDLE)
            with delivering(store, settings):
                return consume(service, broker.url, arguments, orphaned)
    except Exception as error:
        return give_up(error, arguments.options.model, life)


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


def _load_service(arguments: Arguments, name: str, store: Store, broker_url: str, life: LifeFile) -> Service:
    """Load the model and build the service around its engine."""
    from endmark.worker.models.loader import (
        load_engine,  # seconds of imports, and no use before the options are read
    )

    options = arguments.options
    loaded = load_engine(
        options.model,
        adapter=options.adapter,
        device=arguments.device,
        weights=options.weights,
        kv_cache=options.kv_cache,
        trust_remote_code=options.trust_remote_code,
    )
    about = loaded.description
    log.info(
        "loaded %s on %s: %s weights of %s, KV cache of %d tokens",
        about.model,
        about.device,
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
    )
    service = Service(
        loaded.engine,
        Prompter(loaded.tokenizer),
        store,
        identity,
        rows_at_once=rows,
        rows_ahead=rows_ahead(rows, about.device),
        notify=lambda keys: notify(broker_url, options, keys),
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


def rows_ahead(rows_at_once: int, device: str) -> int:
    """Return how many rows are to wait for a slot.

    Of more rows the engine can begin the largest budgets earlier, so that a job does not end with a few long
    rows; but no other worker can have those rows, which on a slow device would be its work of many minutes.
    """
    return 3 * rows_at_once if device == "cuda" else max(1, rows_at_once // 2)


def notify(broker_url: str, options: WorkerOptions, keys: Sequence[ShardKey]) -> None:
    """Send messages for shards whose own may be lost, but no more than can be of use while others wait."""
    room = _MESSAGES_WAITING - waiting_messages(broker_url, options.model, options.adapter)
    if room > 0:
        send_shards(broker_url, options.model, options.adapter, keys[:room])


def consume(service: Service, broker_url: str, arguments: Arguments, orphaned: Orphaned) -> int:
    """Take messages until drained; return the exit code."""
    options = arguments.options
    channel.install()
    app = bind_task(make_app(broker_url, queue_name(options.model, options.adapter)), service)
    app.set_default()  # or Celery's threads make one, configured by the current folder's `celeryconfig.py`
    worker = WorkController(
        app=app,
        pool_cls="threads",
        concurrency=service.shards_at_once,
        without_gossip=True,
        without_mingle=True,
        task_events=True,  # for Flower
        hostname=f"worker-{os.getpid()}@{socket.gethostname()}",
    )
    hear_all_threads(service.broken)
    service.start()
    draining = Guarded("drain", lambda: _drain(service, options.grace), service.broken)

    first = threading.Lock()  # a signal may come on the heels of the parent's end

    def drain(*_: object) -> None:
        state.should_stop = 0  # Celery takes no further message, and waits for the tasks that run
        if first.acquire(blocking=False):
            log.info("draining: rows that run have %.0f s", options.grace)
            draining.start()
        else:
            service.hurry()

    def stop_now() -> None:
        service.hurry()
        drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, drain)
    orphaned.action = stop_now
    worker.start()
    drain()  # already under way, unless Celery gave up by itself and has logged why
    draining.join()
    return worker.exitcode or 0


def _drain(service: Service, grace: float) -> None:
    """Drain the service; then end the process, even if Celery waits for a broker that does not answer."""
    service.drain(grace)
    log.info("drained")
    last = threading.Timer(_CLOSE_WAIT, os._exit, (EXIT_SERVER_AWAY if HANDOVER.finetuning else 0,))
    last.daemon = True
    last.start()


def bind_task(app: Celery, service: Service) -> Celery:
    """Give the app its two tasks, and take from it those that Celery brings along."""

    def generate_shard(task: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        answer(service, _read(task, decode_message, args, kwargs))

    def finetune(task: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        HANDOVER.take(_read(task, decode_finetuning, args, kwargs))

    app.task(generate_shard, name=TASK_NAME, bind=True, typing=False)
    app.task(finetune, name=FINETUNE_TASK, bind=True, typing=False)
    app.finalize()
    for name in list(app.tasks):
        if name not in (TASK_NAME, FINETUNE_TASK):  # `celery.map` and others run whatever a message names
            app.tasks.unregister(name)
    return app


def _read(task: Any, decode: Callable[[Any, Any], Reached], args: Any, kwargs: Any) -> Reached:  # noqa: ANN401
    """Return what a message names; one that is not ours is acknowledged, and nothing that it asks for follows."""
    request = task.request
    try:
        if request.callbacks or request.errbacks or request.chain or request.chord or request.group:
            raise MessageRefused("it asks for other tasks to follow")
        return decode(args, kwargs)
    except MessageRefused as error:
        log.warning("refused a message: %s", error)
        raise Ignore from error


def answer(service: Service, key: ShardKey) -> None:
    """Run shards until none is due; the message is acknowledged then, whatever came of them."""
    log.debug("job %s shard %d: notified", key.job_id, key.shard)
    try:
        while service.run_next_shard():
            pass
    except EndmarkError as error:
        log.error("job %s shard %d: %s", key.job_id, key.shard, error)
    except Exception as error:
        service.broken("claim", error)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    logging.shutdown()
    HANDOVER.execute(sys.argv[1:])
    os._exit(code)  # all is stored and closed; taking torch apart would cost a second or two
