"""The vocabulary of Endmark: what a job is, what a row is, how an attempt ended; pure Python, imported by all."""
