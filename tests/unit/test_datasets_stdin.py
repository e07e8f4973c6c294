"""Standard input that keeps its reader waiting."""

import io
import os
import signal
import threading

import pytest

from endmark.jobs.datasets.stdin import interruptible

pytestmark = pytest.mark.unit


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        yield stream, writer


def test_a_signal_that_interrupts_no_system_call_wakes_the_reader(pipe):
    """Two of 30 `endmark submit -` read on after Ctrl-C.

    The signal had come after Python's last look at its signals and before `read`, which then waits for bytes that
    never come. So it is, every time, with a signal that the kernel hands to another thread.
    """
    stream, writer = pipe
    late = threading.Event()

    def other_thread():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not late.wait(20):
            os.write(writer, b"too late")  # so that the test fails instead of hanging

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    thread = threading.Thread(target=other_thread)
    try:
        with pytest.raises(KeyboardInterrupt):
            read_after(thread, interruptible(stream))
    finally:
        late.set()
        thread.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, before)
        os.close(writer)


def read_after(thread, reader):
    thread.start()
    return reader.read(1)


def test_what_comes_in_pieces_is_read_to_the_end(pipe):
    stream, writer = pipe

    def write():
        for _ in range(100):
            os.write(writer, b"0123456789" * 1000)
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    found = interruptible(stream).read()
    thread.join()
    assert found == b"0123456789" * 100_000
    assert not stream.closed


def test_another_thread_reads_too_and_memory_has_no_descriptor(pipe):
    stream, writer = pipe
    os.write(writer, b"abc")
    os.close(writer)
    found = []
    thread = threading.Thread(target=lambda: found.append(interruptible(stream).read()))
    thread.start()
    thread.join()
    assert found == [b"abc"]
    assert interruptible(io.BytesIO(b"xyz")).read() == b"xyz"
