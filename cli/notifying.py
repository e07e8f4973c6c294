"""Messages from commands: the workers of a job are woken. The queue is imported only to send."""

from endmark.cli.terminal import note
from endmark.db.connection import Store
from endmark.db.workers import workers_for
from endmark.jobs.broker.access import broker_reachable, find_broker
from endmark.jobs.errors import BrokerError
from endmark.jobs.settings import Settings


def wake_workers(store: Store, broker_url: str, model: str, adapter: str | None) -> None:
    """Wake the workers of a model. A broker that fails is no error: workers look into the database too."""
    from endmark.jobs.queue import wake

    try:
        wake(broker_url, model, adapter, max(1, len(workers_for(store, model, adapter))))
    except BrokerError as error:
        note(f"{error}; {error.hint}")


def wake_if_reachable(settings: Settings, store: Store, model: str, adapter: str | None) -> None:
    """Wake the workers of a model if a broker runs; a worker that starts later looks for itself."""
    url = find_broker(settings)
    if url is not None and (settings.broker_url is None or broker_reachable(url)):
        wake_workers(store, url, model, adapter)
