"""What a report says of one job, or of several that ran the same rows: figures, advice, and the page."""
