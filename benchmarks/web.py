"""How long the live page takes for a job of a million rows: `python benchmarks/web.py` prints a line a page.

The ledger is a SQLite file, filled as a worker would leave it: one row in 100,000 failed, one in 50 was cut.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from endmark.db.connection import Store, open_store  # noqa: E402
from endmark.db.counting import recount  # noqa: E402
from endmark.db.jobs import add_rows, begin_job, finish_submission  # noqa: E402
from endmark.jobs.shards import shard_size  # noqa: E402
from endmark.jobs.spec import GenerationSpec  # noqa: E402

ENDMARK = Path(sys.executable).with_name("endmark")
ANSWER = "Begin at the old town and walk along the river, where the market stands on Saturdays. " * 8
TIMES = 5
_FILL = f"""
INSERT INTO attempts (job_id, row, attempt, round, final, text, finish_reason, eos_source, prompt_tokens,
                      completion_tokens, eos_prob_max, eos_step_max, eos_rank_max, eos_hidden_steps, strategies,
                      ending)
SELECT job_id, row, 1, 0, true, '{ANSWER}' || row,
       CASE WHEN row % 100000 = 99999 THEN 'error' WHEN row % 50 = 0 THEN 'length' ELSE 'eos' END,
       CASE WHEN row % 100000 <> 99999 AND row % 50 <> 0 THEN 'natural' END, 20, 160 + row % 40, 0.75,
       159, 0, 0, 'baseline', CASE WHEN row % 50 = 0 THEN 'open' ELSE 'sentence' END
FROM rows WHERE job_id = :job
"""


def fill(store: Store, rows: int) -> str:
    """Store a job that has ended; return its id."""
    job = begin_job(store, name="a million rows", spec=GenerationSpec(model="m"))
    for first in range(0, rows, 10_000):
        add_rows(
            store,
            job,
            first,
            [json.dumps([f"What is there to see in town {row}?"]) for row in range(first, first + 10_000)],
        )
    finish_submission(store, job, columns=("prompt",), total=rows, shard_size=shard_size(rows))
    with store.writer.begin() as connection:
        connection.execute(text(_FILL), {"job": job})
        recount(connection, job, range(-(-rows // shard_size(rows))))
        connection.execute(text("UPDATE shards SET state = 'done'"))
        connection.execute(text("UPDATE jobs SET state = 'completed', started_at = 0, finished_at = 9"))
    return job


def main() -> None:
    """Fill a ledger, start the page, time its pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        with open_store(f"sqlite:///{folder}/endmark.db") as store:
            job = fill(store, rows)
        process = subprocess.Popen(
            [ENDMARK, "web", "--port", "8765"],
            env={**os.environ, "ENDMARK_HOME": folder},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            process.stderr.readline()
            own = f"/jobs/{job}"
            for what, path in {
                "the list of jobs": "/",
                "the job": own,
                "its middle": f"{own}?after={rows // 2}",
                "rows that failed": f"{own}?ending=error",
                "rows that were cut": f"{own}?ending=length",
                "a search that finds its row": f"{own}?q={quote('town 999?')}",
                "a search that finds nothing": f"{own}?q=nowhere",
                "the longest answers": f"{own}?order=longest",
                "the longest that were cut": f"{own}?order=longest&ending=length",
                "one row": f"{own}/rows/{rows - 1}",
            }.items():
                took = []
                for _ in range(TIMES):
                    began = time.perf_counter()
                    urllib.request.urlopen(f"http://127.0.0.1:8765{path}").read()
                    took.append(time.perf_counter() - began)
                print(f"{what:<28} first {took[0]:.3f} s, then {min(took[1:]):.3f} to {max(took[1:]):.3f} s")
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
