"""The GPU side: the Celery app and its one task, the supervisor, the service thread that feeds the engine."""
