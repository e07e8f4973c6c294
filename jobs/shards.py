"""How a job is cut into shards."""

_SMALLEST, _LARGEST, _AIM = 16, 1000, 1000


def shard_size(total: int, samples: int = 1) -> int:
    """Return the rows of one shard for a job of `total` rows: a thousand shards, within 16 to 1,000 rows each.

    It is a multiple of the answers that each prompt has: one worker computes the prompt of them all.
    """
    size = min(max(-(-total // _AIM), _SMALLEST), _LARGEST)
    return -(-size // samples) * samples
