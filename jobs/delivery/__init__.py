"""Word that a job has ended: a command of its user, or a signed request to a URL."""
