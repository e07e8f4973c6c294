"""Reading the rows of a shard that have no result yet."""

import json

from sqlalchemy import text

from endmark.db.connection import Store
from endmark.db.transactions import reading
from endmark.jobs.vocabulary import Lease, StoredRow

UNFINISHED = (
    "SELECT r.row, r.round, r.cells, coalesce("
    "(SELECT max(a.attempt) FROM attempts a WHERE a.job_id = r.job_id AND a.row = r.row), 0) AS attempts"
    " FROM rows r WHERE r.job_id = :job AND r.row >= :first AND r.row < :end AND r.round >= 0"
    " AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.job_id = r.job_id AND a.row = r.row"
    " AND a.round = r.round AND a.final) ORDER BY r.row"
)


def unfinished_rows(store: Store, lease: Lease) -> list[StoredRow]:
    """Return the shard's rows without a final attempt in their round, in order.

    Raises:
        StoreError: the database cannot be used.
    """
    with reading(store) as connection:
        found = connection.execute(
            text(UNFINISHED), {"job": lease.key.job_id, "first": lease.first_row, "end": lease.end_row}
        ).all()
    return [StoredRow(item.row, tuple(json.loads(item.cells)), item.round, item.attempts) for item in found]
