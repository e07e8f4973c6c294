"""Ports for servers of tests."""

import contextlib
import socket


def free_ports(count):
    """So many ports that nobody listens on."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def free_port():
    """A port that nobody listens on."""
    return free_ports(1)[0]
