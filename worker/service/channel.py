"""A Redis channel that survives what others put on the queue.

kombu's own lets an item that is no message of its form end the whole consumer.
"""

import logging
from queue import Empty
from typing import Any

from kombu.transport import redis

log = logging.getLogger(__name__)


class _Forgiving:
    """Drops an item that is no message, with a line in the log."""

    def _brpop_read(self, **options: Any) -> Any:  # noqa: ANN401
        """Read one item and deliver it."""
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning("refused an item on the queue that is no message: %s: %s", type(error).__name__, error)
            raise Empty from error


class ForgivingChannel(_Forgiving, redis.Channel):
    """One to a server that the URL names."""


class ForgivingSentinelChannel(_Forgiving, redis.SentinelChannel):
    """One to the master that Sentinels name."""


def install() -> None:
    """Let every Redis connection of this process use it; a socket's URL leaves kombu no other way to say so."""
    redis.Transport.Channel = ForgivingChannel
    redis.SentinelTransport.Channel = ForgivingSentinelChannel
