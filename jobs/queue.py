"""The queue: its names, its settings, and the one message it carries; all of `jobs` that knows Celery and kombu.

A message wakes a worker, and says nothing else: what there is to do stands in the database, where workers look by
themselves too. So one that is lost, doubled or late costs seconds, and a queue holds no more of them than a model
has workers, however long the job is.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import KombuError

from endmark.jobs.broker.access import broker_reachable
from endmark.jobs.broker.address import mask, parse_address, why_silent
from endmark.jobs.broker.sentinels import SCHEME, Sentinels
from endmark.jobs.errors import BrokerError

__all__ = ["FORMER_TASKS", "WAKE_TASK", "broker_reachable", "make_app", "queue_name", "waiting_messages", "wake"]

WAKE_TASK = "endmark.wake"
FORMER_TASKS = ("endmark.generate_shard", "endmark.finetune")  # what version 0.1 sends: they wake as well
_KEY_PREFIX = "endmark:"


def make_app(broker_url: str, queue: str) -> Celery:
    """Return the Celery app of one queue of a broker, with no result backend.

    Raises:
        BrokerError: the URL is not that of a Redis-protocol server.
    """
    address = parse_address(broker_url)
    behind = address if isinstance(address, Sentinels) else None
    app = Celery("endmark", broker=behind.kombu_url() if behind else broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_default_queue=queue,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": _KEY_PREFIX,
            "socket_connect_timeout": 5,
            "socket_timeout": 30,  # a publish on a dead connection must not wait for ever
            **(behind.kombu_options(timeout=5) if behind else {}),
        },
    )
    if behind and behind.tls is not None:
        app.conf.broker_use_ssl = dict(behind.tls)
    return app


def queue_name(model: str, adapter: str | None) -> str:
    """Return the queue of the jobs that need this model with this adapter: readable, and distinct by a hash."""
    digest = hashlib.sha256(f"{model}\0{adapter or ''}".encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.")[:40]
    return f"{readable or 'model'}-{digest}"


def wake(broker_url: str, model: str, adapter: str | None, workers: int = 1) -> None:
    """Wake so many workers of a model; messages that wait for them already count.

    Raises:
        BrokerError: the broker cannot be reached or refuses the messages; workers look into the database all the
            same.
    """
    name = queue_name(model, adapter)
    app = make_app(broker_url, name)
    with _broker_errors(broker_url), app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=2, interval_start=0.1, interval_step=0.4)
        for _ in range(workers - _waiting(connection, name)):
            app.send_task(WAKE_TASK, connection=connection, ignore_result=True)


def waiting_messages(broker_url: str, model: str, adapter: str | None) -> int:
    """Return how many messages wait on the queue of a model.

    Raises:
        BrokerError: the broker cannot be reached.
    """
    name = queue_name(model, adapter)
    with _broker_errors(broker_url), make_app(broker_url, name).connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.1)
        return _waiting(connection, name)


def _waiting(connection: Connection, name: str) -> int:
    """Return how many messages wait on a queue."""
    return int(connection.default_channel.queue_declare(queue=name).message_count)  # type: ignore[no-untyped-call]


@contextmanager
def _broker_errors(broker_url: str) -> Iterator[None]:
    """Turn what kombu and its client raise into a `BrokerError`."""
    try:
        yield
    except (KombuError, OSError) as error:
        # Of Sentinels the client tells how it looks inside, and not which master they know.
        silence = why_silent(broker_url) if broker_url.startswith(f"{SCHEME}://") else None
        reason = silence or error.__cause__ or error
        raise BrokerError(
            f"cannot use the broker at `{mask(broker_url)}`: {reason}",
            hint="nothing is lost: workers find the work in the database when the broker is back",
        ) from error
