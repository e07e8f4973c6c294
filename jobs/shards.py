"""How a job is cut into shards."""

_SMALLEST, _LARGEST, _AIM = 16, 1000, 1000


def shard_size(total: int) -> int:
    """Return the rows of one shard for a job of `total` rows: a thousand shards, within 16 to 1,000 rows each."""
    return min(max(-(-total // _AIM), _SMALLEST), _LARGEST)
