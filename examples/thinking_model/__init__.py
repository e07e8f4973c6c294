"""The thinking demo: the bundled model taught to think, with the faults of models that do, on purpose."""
