"""The queue's names and its message, through a real broker."""

import contextlib
import random
import time

import pytest
from kombu import Consumer, Exchange, Queue

from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.broker.address import client, parse_address
from endmark.jobs.errors import BrokerError
from endmark.jobs.queue import WAKE_TASK, make_app, queue_name, waiting_messages, wake
from endmark.jobs.settings import Settings
from endmark.worker.service import channel

pytestmark = pytest.mark.integration

MODEL = "meta-llama/Llama-2-7b-chat-hf"


@pytest.fixture
def broker_url(tmp_path):
    with ensure_broker(Settings(tmp_path, "", None)) as broker:
        yield broker.url


def test_a_message_says_nothing_but_wake(broker_url):
    wake(broker_url, MODEL, None)
    name = queue_name(MODEL, None)
    with make_app(broker_url, name).connection_for_read() as connection:
        queue = connection.SimpleQueue(name)
        message = queue.get(timeout=60)
        assert message.headers["task"] == WAKE_TASK
        args, kwargs, embed = message.payload
        assert (args, kwargs) == ([], {})
        assert not any(embed.values())
        message.ack()
        queue.close()


def test_a_queue_holds_no_more_messages_than_workers_are_to_be_woken(broker_url):
    """It held one for each shard: a job of a million rows was hundreds of megabytes of the broker."""
    for _ in range(50):
        wake(broker_url, MODEL, None, 3)
    assert waiting_messages(broker_url, MODEL, None) == 3
    wake(broker_url, MODEL, None, 4)
    wake(broker_url, MODEL, None, 1)
    assert waiting_messages(broker_url, MODEL, None) == 4


def test_each_model_and_adapter_has_its_own_queue(broker_url):
    names = {queue_name(*pair) for pair in [("demo", None), ("demo", "a"), ("demoa", None), ("x/demo", None)]}
    assert len(names) == 4
    assert queue_name(MODEL, None).startswith("Llama-2-7b-chat-hf-")
    assert queue_name("/models/my model/", None).startswith("my-model-")
    wake(broker_url, "demo", None)
    address = parse_address(broker_url)
    assert client(address).llen("endmark:" + queue_name("demo", None)) == 1
    assert client(address).llen("endmark:" + queue_name("demo", "a")) == 0


def test_a_broker_that_is_down_is_said_quickly():
    began = time.monotonic()
    with pytest.raises(BrokerError, match="Connection refused") as caught:
        wake("redis://:secret@127.0.0.1:1/0", "demo", None)
    assert time.monotonic() - began < 5
    assert "secret" not in str(caught.value)
    assert "nothing is lost" in caught.value.hint


def test_items_that_are_no_messages_never_end_a_consumer(broker_url):
    """Whatever others push onto the queue, the messages behind it arrive."""
    channel.install()
    name = queue_name(MODEL, None)
    rng = random.Random(5)
    wake(broker_url, MODEL, None)
    with make_app(broker_url, name).connection_for_read() as connection:
        client = connection.default_channel.client
        (whole,) = client.lrange(f"endmark:{name}", 0, 0)
        for _ in range(300):
            item = bytearray(whole)
            for _ in range(rng.randrange(1, 6)):
                at = rng.randrange(len(item))
                item[at : at + rng.randrange(1, 30)] = rng.randbytes(rng.randrange(3))
            client.lpush(name, bytes(item))
        make_app(broker_url, name).send_task(WAKE_TASK, args=["the last"])
        seen, refused = [], []
        queue = Queue(name, Exchange(""), routing_key=name)

        def take(payload, message):
            message.ack()
            seen.append(payload)

        def drop(message, error):
            message.ack()
            refused.append(error)

        def came():
            return any(isinstance(item, list) and item[:1] == [["the last"]] for item in seen)

        with Consumer(connection, [queue], callbacks=[take], on_decode_error=drop, accept=["json"]):
            deadline = time.monotonic() + 60
            while not came() and time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=1)
    assert came()
    assert refused
