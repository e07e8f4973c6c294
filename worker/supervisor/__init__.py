"""The supervisor: one child process for each GPU, restarted when it dies, drained when it must end."""
