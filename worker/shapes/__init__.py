"""Shapes in a worker: masks of the tokens that may follow, made beside the engine's thread."""
