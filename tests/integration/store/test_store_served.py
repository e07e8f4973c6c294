"""Records of the Batch API's files: when they expire, and who sees them."""

import pytest

from endmark.db.served import Caller, Records
from endmark.db.served_batches import NewBatch, Outcome, add_batch, close_batch, find_batch
from endmark.db.served_files import NewFile, add_file, expired_files, find_file, list_files
from tests.integration.store.ledger import execute

pytestmark = pytest.mark.integration

FIRST, SECOND = (f"file-{number:024x}" for number in (1, 2))


def test_a_file_expires_when_its_seconds_are_over_and_never_without_any(store):
    records = Records(store, "shelf")
    kept = add_file(records, NewFile(FIRST, "me", "a.jsonl", "batch", 3))
    going = add_file(records, NewFile(SECOND, "me", "b.jsonl", "batch", 3, seconds=3600))
    assert kept.expires_at is None
    assert going.expires_at - going.created_at in (3600, 3601)
    assert expired_files(records) == []
    execute(store, "UPDATE files SET expires_at = expires_at - 3700")
    assert list(expired_files(records)) == [SECOND]


def test_a_file_is_seen_by_its_owner_and_by_operators(store):
    records = Records(store, "shelf")
    add_file(records, NewFile(FIRST, "me", "a.jsonl", "batch", 3))
    seen = [find_file(records, FIRST, caller) is not None for caller in (None, Caller("me"), Caller("you"))]
    assert seen == [True, True, False]
    assert find_file(records, FIRST, Caller("you", operator=True)) is not None
    assert find_file(Records(store, "other"), FIRST) is None


def test_a_batch_whose_file_cannot_be_used_has_counted_nothing(store):
    records, caller = Records(store, "shelf"), Caller("me")
    add_file(records, NewFile(FIRST, "me", "a.jsonl", "batch", 3))
    batch = add_batch(records, caller, NewBatch(FIRST, "/v1/chat/completions", "24h", 86400))
    assert close_batch(records, batch.id, Outcome("failed", errors=[{"message": "is no JSON"}]))
    found = find_batch(records, batch.id)
    assert (found.state, found.total, found.completed, found.failed) == ("failed", 0, 0, 0)


@pytest.mark.parametrize("dialect", ["sqlite"])  # Postgres takes no text for a number
def test_a_page_is_filled_behind_damaged_records_and_holds_each_once(store):
    records = Records(store, "shelf")
    names = [f"file-{number:024x}" for number in range(4)]
    for name in names:
        add_file(records, NewFile(name, "me", "a.jsonl", "batch", 3))
    newest_first = [item.id for item in list_files(records, None, purpose=None, after=None, limit=4)]
    execute(store, "UPDATE files SET bytes = 'x' WHERE id = :id", id=newest_first[0])
    found = [item.id for item in list_files(records, None, purpose=None, after=None, limit=2)]
    assert found == newest_first[1:3]
