"""Reading the rows of a shard that have no result yet."""

import json

from sqlalchemy import text

from endmark.db.connection import Store
from endmark.db.transactions import reading
from endmark.jobs.vocabulary import Lease, StoredRow

# The attempts are of the same range of rows, said once more: without that Postgres, which learns late how many
# there are, walks all attempts of the job for each shard.
UNFINISHED = (
    "SELECT r.row, r.round, r.cells, coalesce(a.attempts, 0) AS attempts FROM rows r LEFT JOIN"
    " (SELECT row, max(attempt) AS attempts, max(CASE WHEN final THEN round ELSE -1 END) AS ended FROM attempts"
    " WHERE job_id = :job AND row >= :first AND row < :end GROUP BY row) a ON a.row = r.row"
    " WHERE r.job_id = :job AND r.row >= :first AND r.row < :end AND r.round >= 0"
    " AND r.round > coalesce(a.ended, -1) ORDER BY r.row"
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
