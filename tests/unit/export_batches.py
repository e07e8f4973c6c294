"""Results that are made by hand, as the batch by columns in which an export gets them."""

from endmark.db.export.stream import Batch


def batches_of(results):
    """One batch, or none of nothing, as `Export` asks for them."""
    if not results:
        return lambda: iter(())
    beside = [(item.row, item.cells, item.logprobs, item.cached_tokens) for item in results]
    rows, cells, logprobs, cached = zip(*beside, strict=True)
    values = tuple(zip(*(item.values for item in results), strict=True))
    return lambda: iter([Batch(rows, cells, values, logprobs, cached)])
