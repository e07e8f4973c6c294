"""The `endmark` command: one module a command group, one error boundary."""
