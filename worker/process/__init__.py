"""What supervisor and worker processes share: options, logs, the parent's death, periodic threads."""
