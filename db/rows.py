"""Reading the rows of a shard that have no result yet."""

import json

from sqlalchemy import text

from db.connection import Store
from jobs.vocabulary import Lease, StoredRow


def unfinished_rows(store: Store, lease: Lease) -> list[StoredRow]:
    """Return the shard's rows without a final attempt in their round, in order."""
    with store.reader.connect() as connection:
        found = connection.execute(
            text(
                "SELECT r.row, r.round, r.cells, coalesce(max(a.attempt), 0) AS attempts"
                " FROM rows r LEFT JOIN attempts a ON a.job_id = r.job_id AND a.row = r.row"
                " WHERE r.job_id = :job AND r.row >= :first AND r.row < :end"
                " GROUP BY r.row, r.round, r.cells"
                " HAVING sum(CASE WHEN a.final AND a.round = r.round THEN 1 ELSE 0 END) = 0 ORDER BY r.row"
            ),
            {"job": lease.key.job_id, "first": lease.first_row, "end": lease.end_row},
        ).all()
    return [StoredRow(item.row, tuple(json.loads(item.cells)), item.round, item.attempts) for item in found]
