"""One worker process: the Celery app with its tasks, and the service that feeds the one engine."""
