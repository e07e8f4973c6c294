"""Bugs planted into a running service, one at a time, to prove that the checker finds them.

Each is a context in which a part of the product is wrong; nothing of it stands in the product.
"""

import contextlib
import dataclasses
from unittest import mock

from sqlalchemy import text

from endmark.db import attempt_rows, attempts, shards
from endmark.worker.service import writer


def _replaced(module, name, make):
    """Put `make(the real function)` in a function's place."""
    return mock.patch.object(module, name, make(getattr(module, name)))


def unfenced_write():
    """Results are stored without a look at the fence."""

    def make(real):
        return lambda store, connection, key, outcomes, **_: real(store, connection, key, outcomes)

    return _replaced(attempts, "count_outcomes", make)


def skipped_heartbeat():
    """Heartbeats say that all is well and prolong nothing."""
    return _replaced(shards, "heartbeat", lambda real: lambda store, leases, **_: set())


def double_commit():
    """Outcomes are stored again, as if they had not been: they count twice."""

    @contextlib.contextmanager
    def planted():
        real = writer.commit

        def twice(store, lease, outcomes):
            real(store, lease, outcomes)
            real(store, lease, outcomes)

        with (
            mock.patch.object(attempts, "_stored", return_value=set()),
            mock.patch.object(writer, "commit", twice),
        ):
            yield

    return planted()


def counter_drift():
    """A shard counts one row less than are stored."""

    def make(real):
        return lambda store, connection, key, outcomes, **about: real(
            store, connection, key, outcomes[1:], **about
        )

    return _replaced(attempts, "count_outcomes", make)


def lost_row():
    """The last outcome of a commit is forgotten, and the commit said to be done."""
    return _replaced(writer, "commit", lambda real: lambda store, lease, items: real(store, lease, items[:-1]))


def _said_otherwise(module, *changes):
    """Replace words in the statements of a module."""

    def make(real):
        def text_of(words):
            for old, new in changes:
                words = words.replace(old, new)
            return real(words)

        return text_of

    return _replaced(module, "text", make)


def fence_kept():
    """A claim does not raise the fence."""
    return _said_otherwise(shards, ("fence = fence + 1, attempts = attempts + 1", "attempts = attempts + 1"))


def stolen_lease():
    """A claim takes shards that others hold."""
    return _said_otherwise(
        shards, ("j.queued_shards > 0 AND", ""), ("s.state = 'queued'", "s.state IN ('queued', 'running')")
    )


def invented_verdict():
    """A commit stores a row that no worker has answered."""

    def make(real):
        def insert(store, connection, job_id, outcomes, **about):
            first = outcomes[0].attempts[-1]
            extra = dataclasses.replace(first, attempt=first.attempt + 7)
            more = [*outcomes, dataclasses.replace(outcomes[0], attempts=(extra,))]
            return real(store, connection, job_id, more, **about)

        return insert

    return _replaced(attempts, "insert_outcomes", make)


@contextlib.contextmanager
def early_finish():
    """A shard is closed before its rows are stored, and nobody looks whether they are."""

    def make(real):
        def commit(store, lease, outcomes):
            shards.finish(store, lease)
            real(store, lease, outcomes)

        return commit

    with (
        _replaced(shards, "_lacks_results", lambda real: lambda connection, lease: False),
        _replaced(writer, "commit", make),
    ):
        yield


def changed_answer():
    """What is stored is not what was answered."""
    return _replaced(attempt_rows, "_storable", lambda real: lambda words: real(words)[:-1])


def swapped_rows():
    """Two rows of one commit get each other's answers."""

    def make(real):
        def commit(store, lease, outcomes):
            if len(outcomes) > 1:
                one, two = outcomes[0].attempts[-1], outcomes[1].attempts[-1]
                swapped = [dataclasses.replace(one, text=two.text), dataclasses.replace(two, text=one.text)]
                outcomes = [
                    *(
                        dataclasses.replace(old, attempts=(new,))
                        for old, new in zip(outcomes, swapped, strict=False)
                    ),
                    *outcomes[2:],
                ]
            real(store, lease, outcomes)

        return commit

    return _replaced(writer, "commit", make)


def unfenced_release():
    """A worker that has lost a shard gives it back all the same."""

    @contextlib.contextmanager
    def planted():
        real = writer.commit

        def commit(store, lease, outcomes):
            try:
                real(store, lease, outcomes)
            except writer.LeaseLost:
                with store.writer.begin() as connection:
                    connection.execute(
                        text(
                            "UPDATE shards SET state = 'queued', fence = fence + 1"
                            " WHERE job_id = :job AND shard = :shard"
                        ),
                        {"job": lease.key.job_id, "shard": lease.key.shard},
                    )
                raise

        with mock.patch.object(writer, "commit", commit):
            yield

    return planted()


BUGS = {
    unfenced_write: "stale fence",
    skipped_heartbeat: "let its lease",
    double_commit: "a second time",
    counter_drift: "its rows say",
    lost_row: "0 final results",
    fence_kept: "under the old fence",
    stolen_lease: "while another held it",
    invented_verdict: "verdict from nowhere",
    early_finish: "without a result",
    changed_answer: "has the text",
    swapped_rows: "has the text",
    unfenced_release: "given back by who did not hold it",
}
