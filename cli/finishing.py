"""`--on-finish` and `--notify`: asked for with a job, and told at once by `endmark run`."""

import time
from typing import Any

import click

from endmark.cli.options import Command
from endmark.cli.submission import Deliveries
from endmark.cli.terminal import note, one_line
from endmark.db.connection import Store
from endmark.db.deliveries import DeliveryRecord, deliver_due, deliveries_of
from endmark.jobs.delivery.keys import Key, home_key, needed_secret, secret_key
from endmark.jobs.delivery.sending import check_url, send, shown_url
from endmark.jobs.delivery.word import COMMAND, URL, NewDelivery
from endmark.jobs.errors import StoreError, UsageError
from endmark.jobs.settings import Settings

_TRIES_AGAIN = (1.0, 4.0)  # seconds before each further try of a command that is about to end


def finish_options(command: Command) -> Command:
    """Give a command that makes a job the options of what is told when it has ended."""
    notified = click.option(
        "--notify",
        metavar="URL",
        help="POST to this URL, signed with ENDMARK_NOTIFY_SECRET, when the job has ended.",
    )
    return click.option(
        "--on-finish", metavar="COMMAND", help="Run this command when the job has ended; ENDMARK_JOB tells how."
    )(notified(command))


def wanted_deliveries(settings: Settings, options: dict[str, Any]) -> Deliveries:
    """Return what is to be told, each with its key, checked before anything is stored.

    Args:
        options: the command's: `on_finish`, `notify`.

    Raises:
        UsageError: it cannot be told.
    """
    wanted: list[tuple[NewDelivery, Key]] = []
    if options["on_finish"] is not None:
        if not options["on_finish"].strip():
            raise UsageError("`--on-finish` names no command", hint="""such as `--on-finish 'mail -s done me'`""")
        key = home_key(settings.home, make=True)
        assert key is not None
        wanted.append((NewDelivery(COMMAND, options["on_finish"]), key))
    if options["notify"] is not None:
        check_url(options["notify"])
        wanted.append((NewDelivery(URL, options["notify"]), needed_secret()))
    return wanted


def tell_now(settings: Settings, store: Store, job_id: str) -> None:
    """Tell that a job has ended, its results being written; what does not succeed is left to the workers."""
    try:
        keys = [key for key in (home_key(settings.home), secret_key()) if key is not None]
        for wait in (*_TRIES_AGAIN, None):
            deliver_due(store, keys, send, job_id=job_id)
            left = [item for item in deliveries_of(store, job_id) if item.state == "waiting"]
            if not left or wait is None:
                break
            time.sleep(wait)
        for item in deliveries_of(store, job_id):
            if item.state != "delivered":
                note(described(item))
    except (StoreError, UsageError) as error:  # the job itself is done
        note(f"cannot tell that job {job_id} has ended: {error}")


def described(item: DeliveryRecord) -> str:
    """Return how a delivery stands, in words; of a URL the server alone, as its path may be a secret."""
    what = f"`{one_line(item.target, 60)}`" if item.kind == COMMAND else shown_url(item.target)
    if item.state == "delivered":
        return f"{what} {'has run' if item.kind == COMMAND else 'was notified'}"
    if item.error is None:
        return f"{what} {'is run' if item.kind == COMMAND else 'is notified'} when the job has ended"
    tries = f"tried {item.attempts} times, " if item.attempts > 1 else ""
    again = "; workers try it again" if item.state == "waiting" else ""
    return f"{what} failed: {tries}{one_line(item.error)}{again}"
