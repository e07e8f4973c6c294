"""`endmark serve`: the OpenAI Batch API over the same ledger and queue; needs the extra `serve`."""
