"""What worker processes asked of the ledger and were told, as JSON lines; and what it did itself, by triggers.

A process cannot see what another one wrote, and a trigger cannot see who wrote: the checker needs both. Times of
events are the kernel's monotonic clock, which all processes of a test share whatever their hosts' clocks say.
"""

import hashlib
import itertools
import json
import os
import time

from sqlalchemy import text

from endmark.db import shards
from endmark.jobs.errors import LeaseLost
from endmark.worker.service import writer


def digest(words):
    """A short name of a text."""
    return hashlib.sha256(words.encode()).hexdigest()[:12]


class Recorder:
    """Appends events to a file; a line is one write, so that a killed process leaves whole lines."""

    def __init__(self, path, host=""):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._host = host
        self._numbers = itertools.count()
        self._undo = []

    def note(self, what, **values):
        """Append one event."""
        event = {"what": what, "at": time.monotonic(), "host": self._host, "pid": os.getpid(), **values}
        os.write(self._file, (json.dumps(event) + "\n").encode())

    def install(self):
        """Record from now on what the services of this process do to leases and results."""
        self._wrap(shards, "claim", lambda store, **named: {"worker": named["worker"]}, _claimed)
        self._wrap(
            shards, "heartbeat", lambda store, leases, **_: {"leases": [_lease(item) for item in leases]}, _lost
        )
        self._wrap(shards, "release", lambda store, lease: {"lease": _lease(lease)})
        for module in (shards, writer):
            self._wrap(module, "finish", lambda store, lease: {"lease": _lease(lease)})
        self._wrap(writer, "commit", _committed)

    def remove(self):
        """Put everything back as it was."""
        for module, name, function in reversed(self._undo):
            setattr(module, name, function)
        self._undo.clear()
        os.close(self._file)

    def _wrap(self, module, name, describe, told=lambda result: {}):
        function = getattr(module, name)
        self._undo.append((module, name, function))

        def recorded(*arguments, **named):
            call = next(self._numbers)
            about = describe(*arguments, **named)
            self.note(name, phase="asked", call=call, **about)
            try:
                result = function(*arguments, **named)
            except LeaseLost:
                self.note(name, phase="refused", call=call, **about)
                raise
            except BaseException as error:
                self.note(name, phase="unknown", call=call, error=str(error)[:200], **about)
                raise
            self.note(name, phase="done", call=call, **about, **told(result))
            return result

        setattr(module, name, recorded)


def _lease(lease):
    return [lease.key.job_id, lease.key.shard, lease.fence]


def _claimed(lease):
    return {"lease": None if lease is None else _lease(lease)}


def _lost(leases):
    keys = [getattr(item, "key", item) for item in leases]  # the version before says which shards
    return {"lost": [[key.job_id, key.shard] for key in keys]}


def _committed(store, lease, outcomes):
    rows = [
        [item.attempt, item.row, outcome.round, item.verdict.finish_reason.value, digest(item.text)]
        for outcome in outcomes
        for item in outcome.attempts
    ]
    return {"lease": _lease(lease), "rows": rows}


_TABLE = """CREATE TABLE audit (
    seq {serial} PRIMARY KEY, at double precision, what text, job_id text, shard integer, old_fence integer,
    fence integer, old_state text, state text, worker text, lease_until double precision,
    lease_seconds double precision, first_row bigint, end_row bigint, "row" bigint, attempt integer,
    final boolean)"""
_OF_SHARD = """INSERT INTO audit (at, what, job_id, shard, old_fence, fence, old_state, state, worker, lease_until,
    lease_seconds, first_row, end_row) VALUES ({now}, 'shard', NEW.job_id, NEW.shard, OLD.fence, NEW.fence,
    OLD.state, NEW.state, NEW.worker, OLD.lease_until, OLD.lease_seconds, NEW.first_row, NEW.end_row)"""
_OF_ATTEMPT = """INSERT INTO audit (at, what, job_id, shard, fence, state, worker, "row", attempt, final)
    SELECT {now}, {what}, NEW.job_id, s.shard, s.fence, s.state, s.worker, NEW."row", NEW.attempt, NEW.final
    FROM shards s WHERE s.job_id = NEW.job_id AND s.first_row <= NEW."row" AND NEW."row" < s.end_row"""
_CHANGED = "NEW.fence <> OLD.fence OR NEW.state <> OLD.state"


def watch_ledger(store):
    """Let the ledger write down, in the same transactions, every change of a shard's hands and every attempt."""
    sqlite = store.dialect == "sqlite"
    words = {"now": store.now, "serial": "integer" if sqlite else "bigserial"}
    with store.writer.begin() as connection:
        connection.execute(text(_TABLE.format(**words)))
        for name, table, moment, condition, body in (
            ("shard", "shards", "UPDATE", f"WHEN ({_CHANGED})", _OF_SHARD.format(**words)),
            ("stored", "attempts", "INSERT", "", _OF_ATTEMPT.format(what="'stored'", **words)),
            ("rewritten", "attempts", "UPDATE", "", _OF_ATTEMPT.format(what="'rewritten'", **words)),
        ):
            trigger = f"CREATE TRIGGER audit_{name} AFTER {moment} ON {table} FOR EACH ROW {condition}"
            if sqlite:
                connection.exec_driver_sql(f"{trigger} BEGIN {body}; END")
            else:
                connection.exec_driver_sql(
                    f"CREATE FUNCTION audit_{name}() RETURNS trigger LANGUAGE plpgsql AS"
                    f" $$ BEGIN {body}; RETURN NULL; END $$"
                )
                connection.exec_driver_sql(f"{trigger} EXECUTE FUNCTION audit_{name}()")


def read_events(paths):
    """The events of all processes, by time."""
    lines = (line for path in paths for line in path.read_text().splitlines())
    return sorted(map(json.loads, lines), key=lambda event: event["at"])
