"""Tokens of `endmark serve`: where they come from, whose they are, and that nothing tells them."""

import hashlib
import os
import threading

import pytest

from endmark.cli.http.access import OPEN_ACCESS, is_loopback, read_access
from endmark.db.served import Caller
from endmark.jobs.errors import UsageError

pytestmark = pytest.mark.unit

ONE, TWO, THREE = "1" * 16, "2-._~+/Aa" * 2 + "==", "3" * 48


def unnamed(token):
    return f"token-{hashlib.sha256(token.encode()).hexdigest()[:16]}"


def read(tokens="", operators="", **files):
    environ = {"ENDMARK_TOKENS": tokens, "ENDMARK_OPERATOR_TOKENS": operators}
    return read_access(files.get("token_file"), files.get("operator_file"), environ)


def refused(*arguments, **options):
    with pytest.raises(UsageError) as caught:
        read(*arguments, **options)
    assert caught.value.hint
    return str(caught.value)


def test_without_tokens_it_is_open():
    for environ in ({}, {"ENDMARK_TOKENS": "", "ENDMARK_OPERATOR_TOKENS": " , ,"}):
        access = read_access(None, None, environ)
        assert access.open
        assert access == OPEN_ACCESS
        assert access.only_owner is None
        assert access.caller("") is None


def test_tokens_come_from_variables_by_commas():
    access = read(f" {ONE} , ann:{TWO},, ann : {THREE}")
    assert not access.open
    assert access.caller(ONE) == Caller(unnamed(ONE), operator=False)
    assert access.caller(TWO) == access.caller(THREE) == Caller("ann")
    assert access.renamed == {unnamed(TWO): "ann", unnamed(THREE): "ann"}
    assert access.only_owner is None
    for other in ("", "4" * 16, ONE[:-1], f"ann:{TWO}", "ann"):
        assert access.caller(other) is None


def test_operators_have_a_variable_of_their_own():
    access = read(ONE, f"chief:{TWO}")
    assert access.caller(TWO) == Caller("chief", operator=True)
    assert access.caller(ONE).operator is False
    assert read("", TWO).only_owner == unnamed(TWO)
    assert read(f"ann:{ONE}", f"ann:{TWO}").only_owner == "ann"


def test_tokens_come_from_files_by_lines(tmp_path):
    (tmp_path / "tokens").write_text(f"# of the team\n\n  ann:{ONE}  \n{TWO}\n", encoding="utf-8-sig")
    (tmp_path / "chief").write_text(f"{THREE}\n")
    access = read(token_file=str(tmp_path / "tokens"), operator_file=str(tmp_path / "chief"))
    assert access.caller(ONE) == Caller("ann")
    assert access.caller(TWO) == Caller(unnamed(TWO))
    assert access.caller(THREE) == Caller(unnamed(THREE), operator=True)
    both = read("bob:" + "5" * 16, token_file=str(tmp_path / "tokens"))
    assert {caller.owner for caller in both.callers.values()} == {"bob", "ann", unnamed(TWO)}


def test_tokens_leave_the_environment_that_children_inherit():
    environ = {"ENDMARK_TOKENS": ONE, "ENDMARK_OPERATOR_TOKENS": TWO, "HOME": "/"}
    read_access(None, None, environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("1" * 15, "fewer than 16"),
        ("ann:" + "1" * 15, "fewer than 16"),
        ("ann:", "fewer than 16"),
        (f"ann smith:{ONE}", "no name"),
        (f":{ONE}", "no name"),
        (f"a:b:{ONE}", "no name"),
        (f"{'x' * 65}:{ONE}", "no name"),
        (f"-x:{ONE}", "no name"),
        (f"{unnamed(TWO)}:{ONE}", "no name"),
        (f"{ONE} x", "no bearer token has"),
        (f"{ONE}ü", "no bearer token has"),
        (f"={ONE}", "no bearer token has"),
        (f"{ONE}=x", "no bearer token has"),
    ],
)
def test_an_entry_that_is_none_is_named_by_its_place(entry, said, tmp_path):
    """And not by what it holds: messages go to logs."""
    path = tmp_path / "tokens"
    path.write_text(f"{THREE}\n{entry}\n")
    for message, where in (
        (refused(f"{THREE},{entry}"), "ENDMARK_TOKENS, entry 2: "),
        (refused(operators=f"{THREE},{entry}"), "ENDMARK_OPERATOR_TOKENS, entry 2: "),
        (refused(token_file=str(path)), f"{path}:2: "),
    ):
        assert message.startswith(where)
        assert said in message
        assert ONE not in message
        assert THREE not in message


def test_names_may_be_addresses():
    for name in ("a", "ann.smith@example.org", "team_7-b", "x" * 64):
        assert read(f"{name}:{ONE}").only_owner == name


def test_a_token_stands_for_one_owner():
    assert "stands elsewhere" in refused(f"ann:{ONE},bob:{ONE}")
    assert "stands elsewhere" in refused(ONE, ONE)
    assert "stands elsewhere" in refused(f"{ONE},ann:{ONE}")
    assert read(f"ann:{ONE},ann:{ONE}").only_owner == "ann"


def test_a_file_without_tokens_is_refused(tmp_path):
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n# none\n")
    binary.write_bytes(b"\xff\xff")
    assert refused(token_file=str(empty)) == f"there is no token in `{empty}`"
    assert refused(token_file=str(binary)).endswith("it is not UTF-8")
    assert refused(operator_file=str(tmp_path / "none")).endswith("No such file or directory")


def test_what_is_this_machine_alone():
    for host in ("127.0.0.1", "127.255.255.254", "::1", "localhost", "LocalHost"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "", "10.0.0.1", "localhost.example.org", "127.1", "example.org", "localhost."):
        assert not is_loopback(host)


@pytest.mark.parametrize(
    ("mode", "told"), [(0o600, False), (0o411, False), (0o640, True), (0o604, True), (0o620, True), (0o602, True)]
)
def test_tokens_that_others_can_read_or_change_are_told(tmp_path, mode, told, capsys):
    path = tmp_path / "tokens"
    path.write_text(f"{ONE}\n")
    path.chmod(mode)
    read(token_file=str(path))
    assert (f"`chmod 600 {path}`" in capsys.readouterr().err) is told


def test_tokens_may_come_through_a_pipe_whose_mode_says_nothing(tmp_path, capsys):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    path.chmod(0o666)
    writer = threading.Thread(target=path.write_text, args=(f"ann:{ONE}\n",))
    writer.start()
    assert read(token_file=str(path)).only_owner == "ann"
    writer.join()
    assert capsys.readouterr().err == ""
