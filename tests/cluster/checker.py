"""Proves from the recorded histories and the final ledger that nothing was lost, doubled, stale or made up.

What it holds against them: every row has one final result, the one that its prompt asks for; every result was
asked to be stored, with this text and verdict, by the process that held the shard's fence just then; no lease was
taken from a holder that had it; no shard was closed early or under an old fence; the counters are what the rows
add up to; a healthy holder prolongs its leases; and work goes on within two leases of the last fault.
"""

from collections import defaultdict

from sqlalchemy import text

from endmark.db.counting import recount
from endmark.db.schema import COUNTERS
from tests.cluster.recording import digest

_CLOCK_SLACK = 5.0  # seconds, as in db/job_states.py
DEATHS = "the worker died on this row"  # what the reaper says of a row that it fails


def check(store, events, expected, *, lease, faults=(), lost=()):
    """Return what is wrong, a line each.

    Args:
        events: what `read_events` gives.
        expected: maps a job and a row's number to the text of its answer.
        lease: seconds of the workers' leases.
        faults: (begin, end, host) by the monotonic clock; host `*` is all of them.
        lost: (begin, end) in which the database stored what it has lost since.
    """
    with store.reader.connect() as connection:
        audit = connection.execute(text("SELECT * FROM audit ORDER BY seq")).all()
        finals = connection.execute(
            text(
                "SELECT a.* FROM attempts a JOIN rows r ON r.job_id = a.job_id AND r.row = a.row"
                " WHERE a.final AND a.round = r.round ORDER BY a.job_id, a.row"
            )
        ).all()
        rows = connection.execute(text("SELECT job_id, row, round FROM rows WHERE round >= 0")).all()
        open_jobs = connection.execute(
            text("SELECT id, state FROM jobs WHERE state NOT IN ('completed', 'completed_with_errors')")
        ).all()
    wrong = [f"job {job.id} is {job.state}" for job in open_jobs]
    wrong += _each_row_once(rows, finals, expected)
    wrong += _no_verdict_from_nowhere(audit, finals, events)
    wrong += _no_stale_commit(events, lost)
    wrong += _leases(audit, events, lost)
    wrong += _counters(store)
    wrong += _heartbeats(events, lease, faults)
    wrong += _progress(events, lease, faults)
    return list(dict.fromkeys(wrong))


def _each_row_once(rows, finals, expected):
    """One final result for each row, with the text that its prompt asks for."""
    found = defaultdict(list)
    for item in finals:
        found[item.job_id, item.row].append(item)
    for job, row, _ in rows:
        results = found.pop((job, row), [])
        if len(results) != 1:
            yield f"job {job} row {row} has {len(results)} final results"
        elif results[0].finish_reason == "eos" and results[0].text != expected[job, row]:
            yield f"job {job} row {row} has the text {results[0].text!r}, not {expected[job, row]!r}"
    yield from (f"a result of job {job} row {row}, which does not exist" for job, row in found)


def _no_verdict_from_nowhere(audit, finals, events):
    """Every stored attempt was asked to be stored by who held its shard just then."""
    asked = defaultdict(set)  # the fences under which an attempt was to be stored
    for event in events:
        if event["what"] == "commit" and event["phase"] == "asked":
            job, _, fence = event["lease"]
            for attempt, row, _, reason, words in event["rows"]:
                asked[job, row, attempt].add((fence, reason, words))
    ended = {(item.job_id, item.row, item.attempt): item for item in finals}
    for item in audit:
        if item.what == "rewritten":
            yield f"job {item.job_id} row {item.row} was stored a second time"
        if item.what != "stored":
            continue
        name = (item.job_id, item.row, item.attempt)
        final = ended.get(name)
        if final is not None and (final.error or "").startswith(DEATHS):
            continue  # the reaper's own
        words = f"job {item.job_id} row {item.row}"
        if name not in asked:
            yield f"{words} has a verdict from nowhere"
        elif item.fence not in {fence for fence, *_ in asked[name]} or item.state != "running":
            yield f"{words} was stored under a stale fence: its shard was {item.state} under {item.fence}"
        elif final is not None and (item.fence, final.finish_reason, digest(final.text)) not in asked[name]:
            yield f"{words} is not what its worker asked to be stored"


def _no_stale_commit(events, lost):
    """No commit is acknowledged that was asked for after another had claimed the shard; lost ones do not count."""
    fences = {}  # a shard: the highest fence that somebody was told he holds
    asked = {}  # a call: the highest fence of its shard when it was made
    for event in events:
        if event["what"] not in ("claim", "commit") or not event.get("lease"):
            continue
        *shard, fence = event["lease"]
        call = event["host"], event["pid"], event["call"]
        if event["what"] == "claim":
            if any(begin <= event["at"] <= end + 1 for begin, end in lost):
                continue
            fences[tuple(shard)] = max(fence, fences.get(tuple(shard), 0))
        elif event["phase"] == "asked":
            asked[call] = fences.get(tuple(shard), 0)
        elif event["phase"] == "done" and fence < asked[call]:
            yield f"job {shard[0]} shard {shard[1]}: stored under a stale fence, {fence} after {asked[call]}"


def _leases(audit, events, lost):
    """A shard changes hands only when it is free, and is closed only by who holds it, with all its rows."""
    asked = {
        (event["what"], *event["lease"])
        for event in events
        if event["what"] in ("finish", "release") and event["phase"] == "asked"
    }
    givers = ("release", "finish") if lost else ("release",)  # `finish` gives back a shard whose rows were lost
    stored = defaultdict(set)
    for item in audit:
        if item.what == "stored" and item.final:
            stored[item.job_id].add(item.row)
        if item.what != "shard":
            continue
        words = f"job {item.job_id} shard {item.shard}"
        held = (
            item.old_state == "running"
            and item.lease_until is not None
            and item.at <= item.lease_until <= item.at + item.lease_seconds + _CLOCK_SLACK
        )
        mine = (item.job_id, item.shard, item.old_fence)
        if item.fence < item.old_fence:
            yield f"{words}: its fence fell from {item.old_fence} to {item.fence}"
        if item.state == "running":
            if item.fence == item.old_fence:
                yield f"{words}: claimed by {item.worker} under the old fence {item.fence}"
            if held:
                yield f"{words}: claimed by {item.worker} while another held it"
        elif item.state == "queued" and held and not {(what, *mine) for what in givers} & asked:
            yield f"{words}: given back by who did not hold it, under fence {item.old_fence}"
        elif item.state == "done":
            left = set(range(item.first_row, item.end_row)) - stored[item.job_id]
            if left:
                yield f"{words}: closed with {len(left)} rows without a result"
            if ("finish", *mine) not in asked and item.old_fence == item.fence:
                yield f"{words}: closed by who did not hold it, under fence {item.old_fence}"


def _counters(store):
    """Every shard's counters are what its rows add up to."""
    names = ", ".join(COUNTERS)
    query = text(f"SELECT job_id, shard, {names} FROM shards ORDER BY job_id, shard")
    with store.writer.connect() as connection:
        before = connection.execute(query).all()
        for item in before:
            recount(connection, item.job_id, [item.shard])
        after = connection.execute(query).all()
        connection.rollback()
    for old, new in zip(before, after, strict=True):
        for name in COUNTERS:
            if getattr(old, name) != getattr(new, name):
                counted = f"{name} is {getattr(old, name)}, its rows say {getattr(new, name)}"
                yield f"job {old.job_id} shard {old.shard}: {counted}"


def _heartbeats(events, lease, faults):
    """Who holds a lease and is well prolongs it before it is over, and so does not lose it."""
    spans = {}  # a lease: its holder's host and process, and when it was claimed and prolonged
    ends = {}  # the last word of a process
    for event in events:
        process = event["host"], event["pid"]
        ends[process] = event["at"]
        what, phase = event["what"], event["phase"]
        if what == "claim" and phase == "done" and event["lease"]:
            spans[tuple(event["lease"])] = [event["worker"].partition(":")[0], process, event["at"]]
        elif what == "heartbeat" and phase == "done":
            for held in event["leases"]:
                yield from _prolonged(spans, tuple(held), event, held[:2] in event["lost"], lease, faults)
        elif (what in ("finish", "release") and phase == "asked") or (what == "commit" and phase == "refused"):
            yield from _prolonged(spans, tuple(event["lease"]), event, phase == "refused", lease, faults)
            spans.pop(tuple(event["lease"]), None)
    for held, (_, process, _) in list(spans.items()):
        yield from _prolonged(spans, held, {"at": ends[process]}, False, lease, faults)


def _prolonged(spans, held, event, lost, lease, faults):
    """Judge the time since a lease was last prolonged; it is prolonged, or lost, now."""
    if held not in spans:
        return
    host, process, before = spans[held]
    spans[held] = [host, process, event["at"]]
    if lost:
        del spans[held]
    took = event["at"] - before
    if (lost or took > lease) and not _disturbed(before - lease, event["at"], host, faults):
        yield f"job {held[0]} shard {held[1]}: {host} let its lease {held[2]} go, prolonged {took:.1f} s before"


def _disturbed(begin, end, host, faults):
    """Whether a fault of the host falls into a span."""
    return any(begin < until and since < end for since, until, where in faults if where in ("*", host))


def _progress(events, lease, faults):
    """Rows are stored within two leases of the last fault, or of the first start if no worker outlived it."""
    if not faults:
        return
    last = max(until for _, until, _ in faults)
    started = {(event["host"], event["pid"]): event["at"] for event in events if event["what"] == "started"}
    claims = [(event["host"], event["pid"]) for event in events if event["what"] == "claim" and event["at"] > last]
    starts = [at for at in started.values() if at > last]
    if starts and all(started[process] > last for process in claims):
        last = min(starts)
    stored = [event["at"] for event in events if event["what"] == "commit" and event["phase"] == "done"]
    later = [at for at in stored if at > last]
    if later and min(later) > last + 2 * lease:
        yield f"no row was stored for {min(later) - last:.1f} s after the last fault"
