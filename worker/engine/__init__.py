"""The pure model code: requests in, finished attempts out; it knows no queue and no database."""
