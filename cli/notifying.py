"""Messages from commands: for new jobs, and for what the reaper finds. The queue is imported only to send."""

from collections import defaultdict
from collections.abc import Sequence

from endmark.cli.terminal import note
from endmark.db.connection import Store
from endmark.db.shards import mark_sent, reap
from endmark.jobs.broker.access import broker_reachable, find_broker
from endmark.jobs.errors import BrokerError
from endmark.jobs.settings import Settings
from endmark.jobs.spec import GenerationSpec
from endmark.jobs.vocabulary import ShardKey

_ENOUGH = 64  # messages waiting on a queue; any one of them wakes an idle worker


def notify(store: Store, broker_url: str, spec: GenerationSpec, keys: Sequence[ShardKey]) -> None:
    """Send messages for a job's shards. A broker that fails is no error: workers look into the database too."""
    from endmark.jobs.queue import send_shards

    try:
        send_shards(broker_url, spec.model, spec.adapter, keys)
    except BrokerError as error:
        note(f"{error}; {error.hint}")
    else:
        mark_sent(store, keys)


def notify_if_reachable(settings: Settings, store: Store, spec: GenerationSpec, keys: Sequence[ShardKey]) -> None:
    """Send messages for a job's shards if a broker runs; a worker that starts later looks for itself."""
    url = find_broker(settings)
    if url is not None and (settings.broker_url is None or broker_reachable(url)):
        notify(store, url, spec, keys)


def reap_and_notify(store: Store, broker_url: str | None) -> None:
    """Put expired leases back, and send again the messages that may be lost.

    Args:
        broker_url: of a broker that answers; None if there is none.
    """
    if broker_url is None:
        reap(store, window=0)
        return
    due = reap(store, window=_ENOUGH)
    if not due:
        return
    from endmark.jobs.queue import send_shards, waiting_messages

    by_queue: dict[tuple[str, str | None], list[ShardKey]] = defaultdict(list)
    for key, model, adapter in due:
        by_queue[model, adapter].append(key)
    try:
        for (model, adapter), keys in by_queue.items():
            room = max(0, _ENOUGH - waiting_messages(broker_url, model, adapter))
            send_shards(broker_url, model, adapter, keys[:room])
    except BrokerError as error:
        note(f"{error}; {error.hint}")
