"""The queue: its names, its settings, and the messages it carries; all of `jobs` that knows Celery and kombu.

A message only notifies a worker. It names a job and a shard, or a fine-tuning, and holds no prompt; what there is
to do stands in the database, so a message that is lost, doubled or late costs time and nothing else.
"""

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu.exceptions import KombuError

from endmark.jobs.broker.access import broker_reachable
from endmark.jobs.broker.ping import mask, parse_address
from endmark.jobs.errors import BrokerError, MessageRefused
from endmark.jobs.vocabulary import ShardKey

__all__ = [
    "FINETUNE_TASK",
    "MESSAGE_VERSION",
    "TASK_NAME",
    "broker_reachable",
    "decode_finetuning",
    "decode_message",
    "make_app",
    "queue_name",
    "send_finetuning",
    "send_shards",
    "waiting_messages",
]

TASK_NAME = "endmark.generate_shard"
FINETUNE_TASK = "endmark.finetune"
MESSAGE_VERSION = 1
_KEY_PREFIX = "endmark:"
_VISIBILITY_TIMEOUT = 24 * 3600  # seconds; longer than any shard, whose recovery is the reaper's work
_BATCH = 500  # messages a pipeline
_JOB_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def make_app(broker_url: str, queue: str) -> Celery:
    """Return the Celery app of one queue of a broker, with no result backend.

    Raises:
        BrokerError: the URL is not that of a Redis-protocol server.
    """
    parse_address(broker_url)
    app = Celery("endmark", broker=broker_url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,
        task_default_queue=queue,
        worker_prefetch_multiplier=1,
        # It would lose messages on Redis; a lease that outlives its worker is the reaper's work.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": _KEY_PREFIX,
            "visibility_timeout": _VISIBILITY_TIMEOUT,
            "unacked_restore_interval": 30,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": 5,
            "socket_timeout": 30,  # a publish on a dead connection must not wait for ever
        },
    )
    return app


def queue_name(model: str, adapter: str | None) -> str:
    """Return the queue of the jobs that need this model with this adapter: readable, and distinct by a hash."""
    digest = hashlib.sha256(f"{model}\0{adapter or ''}".encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", model.rstrip("/").rsplit("/", 1)[-1]).strip("-.")[:40]
    return f"{readable or 'model'}-{digest}"


def send_shards(broker_url: str, model: str, adapter: str | None, keys: Sequence[ShardKey]) -> None:
    """Notify the workers of these shards, on the queue of their model, in order.

    Raises:
        BrokerError: the broker cannot be reached or refuses the messages. Some may have been sent; workers find
            the others in the database.
    """
    if keys:
        _send(broker_url, queue_name(model, adapter), TASK_NAME, [(key.job_id, key.shard) for key in keys])


def send_finetuning(broker_url: str, model: str, finetuning: str) -> None:
    """Notify of a fine-tuning, on the queue of the workers that hold its model.

    Raises:
        BrokerError: the broker cannot be reached or refuses the message.
    """
    _send(broker_url, queue_name(model, None), FINETUNE_TASK, [(finetuning,)])


def _send(broker_url: str, name: str, task: str, messages: Sequence[tuple[str | int, ...]]) -> None:
    """Send messages, given by their arguments, to a queue."""
    app = make_app(broker_url, name)
    with _broker_errors(broker_url), app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=2, interval_start=0.1, interval_step=0.4)
        producer = app.amqp.Producer(connection)
        producer.maybe_declare(app.amqp.default_queue)
        with producer.batch(max_size=_BATCH):
            for args in messages:
                message = app.amqp.as_task_v2(
                    str(uuid.uuid4()),
                    task,
                    args=args,
                    kwargs={"version": MESSAGE_VERSION},
                    argsrepr=f"({', '.join(map(str, args))})",
                    kwargsrepr="",
                    ignore_result=True,
                )
                producer.publish(
                    message.body,
                    exchange="",
                    routing_key=name,
                    serializer="json",
                    headers=message.headers,
                    **message.properties,
                )


def waiting_messages(broker_url: str, model: str, adapter: str | None) -> int:
    """Return how many messages wait on the queue of a model.

    Raises:
        BrokerError: the broker cannot be reached.
    """
    name = queue_name(model, adapter)
    with _broker_errors(broker_url), make_app(broker_url, name).connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.1)
        return int(connection.default_channel.queue_declare(queue=name).message_count)


@contextmanager
def _broker_errors(broker_url: str) -> Iterator[None]:
    """Turn what kombu and its client raise into a `BrokerError`."""
    try:
        yield
    except (KombuError, OSError) as error:
        reason = error.__cause__ or error
        raise BrokerError(
            f"cannot use the broker at `{mask(broker_url)}`: {reason}",
            hint="nothing is lost: workers find the work in the database when the broker is back",
        ) from error


def decode_message(args: Any, kwargs: Any) -> ShardKey:  # noqa: ANN401 - whatever came over the wire
    """Return the shard that a message's arguments name.

    Raises:
        MessageRefused: they are not those of a message of this version.
    """
    job_id, shard = _arguments(args, kwargs, ("a job", "a shard"))
    if type(shard) is not int or not 0 <= shard < 2**31:
        raise MessageRefused("its second argument is not a shard's number")
    return ShardKey(job_id, shard)


def decode_finetuning(args: Any, kwargs: Any) -> str:  # noqa: ANN401 - whatever came over the wire
    """Return the id of the fine-tuning that a message's arguments name.

    Raises:
        MessageRefused: they are not those of a message of this version.
    """
    return str(_arguments(args, kwargs, ("a fine-tuning",))[0])


def _arguments(args: Any, kwargs: Any, names: Sequence[str]) -> Sequence[Any]:  # noqa: ANN401
    """Return a message's arguments if they are of this version and as many as named, the first of them an id."""
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise MessageRefused("its arguments are not a list and a mapping")
    version = kwargs.get("version")
    if set(kwargs) != {"version"} or type(version) is not int:
        raise MessageRefused("it does not say its version")
    if version != MESSAGE_VERSION:
        raise MessageRefused(f"it is of version {version}, this program reads version {MESSAGE_VERSION}")
    if len(args) != len(names):
        raise MessageRefused(f"it has {len(args):,} arguments, {' and '.join(names)} were expected")
    if not isinstance(args[0], str) or not _JOB_ID.fullmatch(args[0]):
        raise MessageRefused(f"its first argument is not {names[0]}'s id")
    return args
