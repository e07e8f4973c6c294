"""The queue's names and messages, through a real broker."""

import contextlib
import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Consumer, Exchange, Queue

from endmark.jobs.broker.access import ensure_broker
from endmark.jobs.broker.ping import command, parse_address
from endmark.jobs.errors import BrokerError, MessageRefused
from endmark.jobs.queue import MESSAGE_VERSION, TASK_NAME, decode_message, make_app, queue_name, send_shards
from endmark.jobs.settings import Settings
from endmark.jobs.vocabulary import ShardKey
from endmark.worker.service import channel

pytestmark = pytest.mark.integration

MODEL = "meta-llama/Llama-2-7b-chat-hf"


@pytest.fixture
def broker_url(tmp_path):
    with ensure_broker(Settings(tmp_path, "", None)) as broker:
        yield broker.url


def test_messages_arrive_in_order_and_name_job_and_shard_only(broker_url):
    keys = [ShardKey("job-1", shard) for shard in range(1200)]
    send_shards(broker_url, MODEL, None, keys)
    name = queue_name(MODEL, None)
    seen = []
    with make_app(broker_url, name).connection_for_read() as connection:
        queue = connection.SimpleQueue(name)
        for _ in keys:
            message = queue.get(timeout=5)
            assert message.headers["task"] == TASK_NAME
            args, kwargs, embed = message.payload
            assert not any(embed.values())
            seen.append(decode_message(args, kwargs))
            message.ack()
        queue.close()
    assert seen == keys


def test_each_model_and_adapter_has_its_own_queue(broker_url):
    names = {queue_name(*pair) for pair in [("demo", None), ("demo", "a"), ("demoa", None), ("x/demo", None)]}
    assert len(names) == 4
    assert queue_name(MODEL, None).startswith("Llama-2-7b-chat-hf-")
    assert queue_name("/models/my model/", None).startswith("my-model-")
    send_shards(broker_url, "demo", None, [ShardKey("j", 0)])
    address = parse_address(broker_url)
    assert command(address, "LLEN", "endmark:" + queue_name("demo", None)) == ":1"
    assert command(address, "LLEN", "endmark:" + queue_name("demo", "a")) == ":0"


def test_sending_nothing_needs_no_broker():
    send_shards("redis://127.0.0.1:1/0", "demo", None, [])


def test_a_broker_that_is_down_is_said_quickly():
    began = time.monotonic()
    with pytest.raises(BrokerError, match="Connection refused") as caught:
        send_shards("redis://:secret@127.0.0.1:1/0", "demo", None, [ShardKey("j", 0)])
    assert time.monotonic() - began < 5
    assert "secret" not in str(caught.value)
    assert "nothing is lost" in caught.value.hint


def test_a_message_is_read_back():
    assert decode_message(["job-1", 3], {"version": MESSAGE_VERSION}) == ShardKey("job-1", 3)


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        (["job", 1], {}, "version"),
        (["job", 1], {"version": MESSAGE_VERSION - 1}, "version 0"),
        (["job", 1], {"version": True}, "version"),
        (["job", 1], {"version": 1, "prompt": "x"}, "version"),
        (["job"], {"version": 1}, "1 arguments"),
        (["job", "1"], {"version": 1}, "shard"),
        (["job", True], {"version": 1}, "shard"),
        (["job", -1], {"version": 1}, "shard"),
        (["job", 2**31], {"version": 1}, "shard"),
        (["job", 1.0], {"version": 1}, "shard"),
        (["x" * 10_000_000, 1], {"version": 1}, "job"),
        (["a job", 1], {"version": 1}, "job"),
        ([None, 1], {"version": 1}, "job"),
        ([0] * 100_000, {"version": 1}, "100,000 arguments"),
        ("ab", {"version": 1}, "list"),
        (None, None, "list"),
    ],
)
def test_any_other_message_is_refused_with_its_reason(args, kwargs, reason):
    with pytest.raises(MessageRefused, match=reason):
        decode_message(args, kwargs)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
_arguments = _json | st.tuples(st.text(max_size=4), st.integers())
_options = _json | st.just({"version": MESSAGE_VERSION})


def check_decoder(args, kwargs):
    json.dumps([args, kwargs])
    try:
        key = decode_message(args, kwargs)
    except MessageRefused:
        return
    assert (key.job_id, key.shard) == tuple(args)


@given(_arguments, _options)
@settings(max_examples=1000, deadline=None)
def test_no_message_crashes_the_decoder(args, kwargs):
    check_decoder(args, kwargs)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(_arguments, _options)
@settings(max_examples=100_000, deadline=None)
def test_no_message_crashes_the_decoder_in_a_hundred_thousand(args, kwargs):
    check_decoder(args, kwargs)


def test_items_that_are_no_messages_never_end_a_consumer(broker_url):
    """Whatever others push onto the queue, the messages behind it arrive."""
    channel.install()
    name = queue_name(MODEL, None)
    rng = random.Random(5)
    send_shards(broker_url, MODEL, None, [ShardKey("job", 0)])
    with make_app(broker_url, name).connection_for_read() as connection:
        client = connection.default_channel.client
        (whole,) = client.lrange(f"endmark:{name}", 0, 0)
        for _ in range(300):
            item = bytearray(whole)
            for _ in range(rng.randrange(1, 6)):
                at = rng.randrange(len(item))
                item[at : at + rng.randrange(1, 30)] = rng.randbytes(rng.randrange(3))
            client.lpush(name, bytes(item))
        send_shards(broker_url, MODEL, None, [ShardKey("job", 1)])
        seen, refused = [], []
        queue = Queue(name, Exchange(""), routing_key=name)

        def take(payload, message):
            message.ack()
            try:
                args, kwargs, _ = payload
                seen.append(decode_message(args, kwargs))
            except (MessageRefused, TypeError, ValueError) as error:
                refused.append(error)

        def drop(message, error):
            message.ack()
            refused.append(error)

        with Consumer(connection, [queue], callbacks=[take], on_decode_error=drop, accept=["json"]):
            deadline = time.monotonic() + 60
            while ShardKey("job", 1) not in seen and time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=1)
    assert seen[0] == ShardKey("job", 0)
    assert ShardKey("job", 1) in seen
    assert refused
