"""The tables, as the queries see them; the migrations make them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

from endmark.jobs.vocabulary import ENDS

metadata = MetaData()
_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # which counts by itself

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", Text, nullable=False),
    Column("state", String(24), nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("model", Text, nullable=False),
    Column("adapter", Text),
    Column("columns", Text),  # JSON list; null while the job is being stored
    Column("total", BigInteger, nullable=False, server_default="0"),
    Column("created_at", Float(53), nullable=False),
    Column("updated_at", Float(53), nullable=False),  # while it is being stored: by the newest rows; 0 if given up
    Column("started_at", Float(53)),
    Column("finished_at", Float(53)),
    Column("error", Text),  # why the job as a whole has failed
    Column("device_seconds", Float(53), nullable=False, server_default="0"),  # that devices have worked for it
    Column("queued_shards", Integer, nullable=False, server_default="0"),  # both kept by triggers on `shards`
    Column("running_shards", Integer, nullable=False, server_default="0"),
    Index("jobs_by_state", "state", "model"),
    # Of those that are queued or running and have queued shards.
    Index("jobs_in_turn", "model", "adapter", "priority", "running_shards", "created_at", "id"),
)
specs = Table(
    "specs",
    metadata,
    Column("job_id", String(16), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("spec", Text, nullable=False),  # JSON
)
rows = Table(
    "rows",
    metadata,
    Column("job_id", String(16), primary_key=True),  # a foreign key would take Postgres 10 µs a row
    Column("row", BigInteger, primary_key=True),
    Column("round", Integer, nullable=False, server_default="0"),  # in which it is to be answered; -1 not at all
    Column("cells", Text, nullable=False),  # JSON list, in the order of the job's columns
    Column("sample", Integer),  # which answer of its prompt it is, from 0; null where there is one alone
)
COUNTERS = (
    "succeeded",
    *(end.counter for end in ENDS if end.counter),
    "prompt_tokens",
    "completion_tokens",
    "complete",
    "in_reasoning",  # rows that ended inside a thought
    "reasoning_tokens",
    "shaped",
    "valid",
    "cached_tokens",  # of prompts, that had been computed for other rows
    "deduplicated",  # rows that have the answer of another
)
shards = Table(
    "shards",
    metadata,
    Column("job_id", String(16), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("shard", Integer, primary_key=True),
    Column("first_row", BigInteger, nullable=False),
    Column("end_row", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("lease_until", Float(53)),
    Column("lease_seconds", Float(53)),  # how long a lease is; null under workers of version 0005
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("worker", Text),
    Column("sent_at", Float(53), nullable=False, server_default="0"),  # for commands of version 0.1, which set it
    Column("updated_at", Float(53)),
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in COUNTERS),
    Index("shards_by_state", "state", "lease_until"),
    Index("shards_in_turn", "job_id", "state", "first_row"),
    Index("shards_held", "worker"),  # where the shard is running
)
# They go with their rows: by a foreign key in SQLite, by a trigger in Postgres, where a key would cost too much.
attempts = Table(
    "attempts",
    metadata,
    Column("job_id", String(16), primary_key=True),
    Column("row", BigInteger, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("round", Integer, nullable=False),
    Column("final", Boolean, nullable=False),  # no further attempt follows in its round
    Column("text", Text, nullable=False),
    Column("finish_reason", String(16), nullable=False),
    Column("eos_source", String(16)),
    Column("stop_sequence", Text),
    Column("error", Text),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("eos_prob_max", Float(53)),
    Column("eos_step_max", Integer),
    Column("eos_rank_max", Integer),
    Column("eos_hidden_steps", Integer, nullable=False),
    Column("eos_probs", LargeBinary),  # half floats, one a step
    Column("strategies", Text, nullable=False),
    Column("ending", String(16)),  # null in rows of before it was worked out
    Column("trimmed_tokens", Integer, nullable=False, server_default="0"),
    Column("rewinds", Integer, nullable=False, server_default="0"),
    Column("rewound_tokens", Integer, nullable=False, server_default="0"),
    Column("reasoning", Text),
    Column("reasoning_tokens", Integer, nullable=False, server_default="0"),
    Column("ended_in", String(16)),  # null in rows of before models were known to think
    Column("thought_closed", String(16)),
    Column("valid", Boolean),  # null in rows without a shape
    Column("choice_probs", Text),  # JSON object of labels; null in rows that were not chosen by scores
    Column("weights", String(64)),  # null in rows of before they were noted
    Column("logprobs", Text),  # as `jobs.logprobs` has them; null where they were not asked for
    Column("cached_tokens", Integer, nullable=False, server_default="0"),  # of the prompt
    Column("same_as", BigInteger),  # the row whose answer it is; null of a row that was run itself
)
askers = Table(
    "askers",
    metadata,
    Column("job_id", String(16), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("digest", String(32), primary_key=True),  # of what a row asks
    Column("row", BigInteger, nullable=False),  # that asked it first
)
workers = Table(
    "workers",
    metadata,
    Column("worker", String(255), primary_key=True),
    Column("model", Text, nullable=False),
    Column("adapter", Text),
    Column("device", Text, nullable=False),
    Column("weights", Text, nullable=False),
    Column("weight_bytes", BigInteger, nullable=False, server_default="0"),
    Column("kv_tokens", BigInteger, nullable=False, server_default="0"),
    Column("tokens_per_second", Float(53), nullable=False),
    Column("heartbeat", Float(53), nullable=False),
    Column("engine", String(16), nullable=False, server_default="endmark"),
)
runs = Table(
    "runs",
    metadata,
    Column("key", String(64), primary_key=True),  # hash of dataset, spec and output
    Column("job_id", String(16), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
)
compatibility = Table(
    "compatibility",
    metadata,
    Column("oldest", String(16), primary_key=True),  # the oldest version whose programs can use this ledger
)
deliveries = Table(
    "deliveries",
    metadata,
    Column("job_id", String(16), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", String(16), primary_key=True),  # command or url
    Column("target", Text, nullable=False),
    Column("key_id", String(16), nullable=False),  # of the key that proves it
    Column("proof", String(64), nullable=False),
    Column("state", String(16), nullable=False),  # waiting, delivered or failed
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", Float(53)),  # of the next attempt; null: as soon as the job has ended
    Column("leased_until", Float(53)),
    Column("error", Text),
    Index("deliveries_by_state", "state"),
)
finetunings = Table(
    "finetunings",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("model", Text, nullable=False),
    Column("spec", Text, nullable=False),  # JSON
    Column("state", String(16), nullable=False),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("lease_until", Float(53)),
    Column("worker", Text),
    Column("progress", Text),  # JSON
    Column("error", Text),
    Column("created_at", Float(53), nullable=False),
    Column("updated_at", Float(53), nullable=False),
)
files = Table(
    "files",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),  # for their order
    Column("id", String(40), nullable=False, unique=True),
    Column("shelf", String(32), nullable=False),  # id of the folder that holds the content
    Column("owner", String(80), nullable=False),  # empty: stored without a token
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("expires_at", Float(53)),
    Index("files_of_shelf", "shelf", "owner", "number"),
)
batches = Table(
    "batches",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("shelf", String(32), nullable=False),
    Column("owner", String(80), nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", String(40), nullable=False),
    Column("completion_window", Text, nullable=False),
    Column("metadata", Text),  # JSON
    Column("output_seconds", Integer),  # after which its files expire
    Column("created_at", Float(53), nullable=False),
    Column("expires_at", Float(53)),  # when it is to be done; null in those of before version 0007 at times
    Column("state", String(16), nullable=False),
    Column("ending", String(16)),  # why it is to end before it is done
    Column("job_id", String(16)),  # noted before the job is stored
    Column("errors", Text),  # JSON
    Column("times", Text, nullable=False),  # JSON: when it came to its states
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in ("total", "completed", "failed")),
    Column("output_file_id", String(40)),
    Column("error_file_id", String(40)),
    Index("batches_of_shelf", "shelf", "owner", "number"),
    Index("batches_by_state", "shelf", "state"),
)
