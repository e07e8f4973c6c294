"""URLs of Sentinels: read, refused with the fix, masked, and told to kombu."""

import pytest

from endmark.jobs.broker.address import mask, parse_address
from endmark.jobs.errors import BrokerError
from endmark.jobs.queue import make_app

pytestmark = pytest.mark.unit

WHOLE = "sentinel://me:p%40ss@one:26380,two,[::1]:7/main/3?sentinel_username=a&sentinel_password=s%26t"


def test_a_url_names_the_sentinels_the_master_and_both_passwords():
    found = parse_address(WHOLE)
    assert found.hosts == (("one", 26380), ("two", 26379), ("::1", 7))
    assert (found.master, found.database) == ("main", 3)
    assert (found.username, found.password) == ("me", "p@ss")
    assert (found.own_username, found.own_password) == ("a", "s&t")
    assert found.tls is None
    plain = parse_address("sentinel://one/main")
    assert (plain.hosts, plain.database, plain.username, plain.password) == ((("one", 26379),), 0, "", "")


def test_the_form_of_celery_is_taken_with_the_master_behind_it():
    ours = parse_address("sentinel://:p@one:1,two:2/main")
    assert parse_address("sentinel://:p@one:1;sentinel://:p@two:2/main") == ours


def test_tls_is_meant_where_an_option_of_it_stands():
    checked = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    assert parse_address("sentinel://h/m?ssl_cert_reqs=CERT_REQUIRED").tls == checked
    assert parse_address("sentinel://h/m?ssl_ca_certs=/ca.pem").tls == {**checked, "ssl_ca_certs": "/ca.pem"}
    unchecked = {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    assert parse_address("sentinel://h/m?ssl_cert_reqs=none").tls == unchecked
    app = make_app("sentinel://h/m?ssl_cert_reqs=none", "queue")
    with app.connection_for_write() as connection:
        assert connection.ssl == unchecked
        assert connection.transport_options["sentinel_kwargs"]["ssl"] is True


def test_kombu_is_told_all_of_it():
    app = make_app(WHOLE, "queue")
    with app.connection_for_write() as connection:
        assert [part.rpartition("@")[2] for part in connection.alt] == ["one:26380/3", "two:26379/3", "[::1]:7/3"]
        assert (connection.userid, connection.password, connection.virtual_host) == ("me", "p@ss", "3")
        assert connection.transport_options["master_name"] == "main"
        assert connection.transport_options["global_keyprefix"] == "endmark:"
        own = connection.transport_options["sentinel_kwargs"]
        assert (own["username"], own["password"], own["socket_timeout"]) == ("a", "s&t", 5)
        assert "p@ss" not in connection.as_uri()
        assert "p%40ss" not in connection.as_uri()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sentinel://h:1", "names no master"),
        ("sentinel://h:1/0", "names no master"),
        ("sentinel://h:1/main/x", "`x` is no number of a database"),
        ("sentinel://h:1,:2/main", "a Sentinel without a host"),
        ("sentinel://h:1,/main", "a Sentinel without a host"),
        ("sentinel://h:99999/main", "Port out of range"),
        ("sentinel://h:1/main?tls=yes", "unknown option `tls`; there are sentinel_username"),
        ("sentinel://h/main?ssl_cert_reqs=maybe", "ssl_cert_reqs is `required` or `none`, not `maybe`"),
        ("sentinel://:p@ss@h/main", "its password is not %-encoded"),
    ],
)
def test_another_is_refused_with_the_shape_that_it_should_have(url, reason):
    with pytest.raises(BrokerError) as caught:
        parse_address(url)
    assert reason in str(caught.value)
    assert "/MASTER/0`" in caught.value.hint or "%40" in caught.value.hint
    assert "ss@h" not in str(caught.value)


def test_no_password_is_shown():
    assert (
        mask(WHOLE) == "sentinel://me:***@one:26380,two,[::1]:7/main/3?sentinel_username=a&sentinel_password=***"
    )
    for url in ("sentinel://:s3@h1;sentinel://:s3@h2/m", "sentinel://h/m?sentinel_password=s3@x&s3"):
        assert "s3" not in mask(url)
