"""Endmark from Python: jobs over data frames and lists, and the engine alone. `import endmark` hands it on."""
