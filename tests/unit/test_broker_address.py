"""URLs of brokers: read as kombu reads them, shown without their passwords."""

from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kombu.utils.url import parse_url

from endmark.jobs.broker.address import Address, client, mask, parse_address
from endmark.jobs.errors import BrokerError

pytestmark = pytest.mark.unit

TEXT = st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


@given(
    st.sampled_from(["redis", "rediss"]),
    st.sampled_from(["h", "127.0.0.1", "broker.example.com"]),
    st.none() | st.integers(1, 65535),
    st.none() | TEXT,
    st.none() | TEXT,
    st.none() | st.integers(0, 15),
)
def test_a_url_is_read_as_kombu_reads_it(scheme, host, port, user, password, number):
    credentials = "" if user is None and password is None else quote(user or "", safe="")
    credentials += "" if password is None else f":{quote(password, safe='')}"
    url = f"{scheme}://{credentials}{'@' if credentials else ''}{host}{'' if port is None else f':{port}'}"
    url += "" if number is None else f"/{number}"
    found, kombus = parse_address(url), parse_url(url)
    assert found == Address(None, host, port or 6379, user or "", password or "", scheme == "rediss", False)
    assert (found.host, found.username or None) == (kombus["hostname"], kombus["userid"] or None)
    assert (found.password or None, port) == (kombus["password"] or None, kombus["port"])
    if password is not None:
        assume(
            quote(password, safe="") not in f"{scheme}://{quote(user or '', safe='')}:***@{host}:{port}/{number}"
        )
        assert quote(password, safe="") not in mask(url)
    else:
        assert mask(url) == url


def test_a_socket_is_a_path():
    found = parse_address("redis+socket:///run/my%20broker.sock?virtual_host=3")
    assert found == Address("/run/my broker.sock", "127.0.0.1", 6379, "", "", False, False)
    assert client(found).connection_pool.connection_kwargs["path"] == "/run/my broker.sock"
    assert parse_address("redis://h").path is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h", "unknown scheme `http`"),
        ("h:6379", "unknown scheme"),
        ("redis://h:port", "Port could not be cast"),
        ("redis://h:70000", "out of range"),
        ("redis://h/x", "`x` is no number of a database"),
        ("redis://h/0?virtual_host=y", "`y` is no number of a database"),
        ("redis+socket://relative", "names no socket"),
        ("redis://:p/w@h", "its password is not %-encoded"),
        ("redis://:p#w@h", "its password is not %-encoded"),
        ("redis://:p@w@h", "its password is not %-encoded"),
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url, said):
    with pytest.raises(BrokerError) as caught:
        parse_address(url)
    assert said in str(caught.value)
    assert caught.value.hint
    assert "p/w" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "checked", "wanted"),
    [
        ("", False, "none"),
        ("?ssl_cert_reqs=none", False, "none"),
        ("?ssl_cert_reqs=required", True, "required"),
        ("?ssl_cert_reqs=CERT_REQUIRED", True, "required"),
    ],
)
def test_a_certificate_is_checked_where_the_url_says_so(query, checked, wanted):
    found = parse_address(f"rediss://h:6380/0{query}")
    assert (found.tls, found.verify) == (True, checked)
    options = client(found).connection_pool.connection_kwargs
    assert (options["ssl_cert_reqs"], options["ssl_check_hostname"]) == (wanted, checked)
    assert "ssl_cert_reqs" not in client(parse_address("redis://h")).connection_pool.connection_kwargs


def test_a_client_tries_once_and_waits_no_longer_than_it_is_told():
    options = client(parse_address("redis://me:p%40w@h:7000"), 2.5).connection_pool.connection_kwargs
    wanted = {"host": "h", "port": 7000, "username": "me", "password": "p@w", "decode_responses": True}
    wanted |= {"socket_timeout": 2.5, "socket_connect_timeout": 2.5, "protocol": 2}
    assert {name: options[name] for name in wanted} == wanted
    assert options["retry"]._retries == 0
    bare = client(parse_address("redis://h")).connection_pool.connection_kwargs
    assert (bare["username"], bare["password"]) == (None, None)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h", "redis://h"),
        ("redis://me@h", "redis://me@h"),
        ("redis://me:secret@h/0", "redis://me:***@h/0"),
        ("redis://:se@cret@h/0", "redis://:***@h/0"),
        ("sentinel://me:secret@a,b/m?sentinel_password=other", "sentinel://me:***@a,b/m?sentinel_password=***"),
    ],
)
def test_what_is_shown_of_a_url(url, shown):
    assert mask(url) == shown
