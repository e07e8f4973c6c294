"""Streams of a card, which each thread has from its first call on."""

import threading

_own = threading.local()


def current_stream():
    _own.value = True


def has_stream():
    return hasattr(_own, "value")
