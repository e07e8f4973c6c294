"""The home: its owner's alone, whatever the umask, and nothing of others touched."""

import os
import stat
from pathlib import Path

import pytest

from endmark.jobs.private import open_private, private_folder
from endmark.jobs.settings import Settings

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def older_home(home):
    """What versions before this one made: all of it open to everyone."""
    (home / "logs").mkdir(parents=True)
    (home / "serve" / "files").mkdir(parents=True)
    for name in ("endmark.db", "endmark.db-wal", "endmark.db-shm", "logs/worker-1.log", "serve/files/upload"):
        (home / name).write_text("prompts")
    return home


def own(home):
    return [
        home / "endmark.db",
        home / "endmark.db-wal",
        *(home / "logs").rglob("*"),
        *(home / "serve").rglob("*"),
    ]


def load(home):
    return Settings.load({"ENDMARK_HOME": str(home)})


def test_a_new_home_and_all_in_it_is_private(tmp_path):
    home = load(tmp_path / "new" / "home").home
    assert mode(home) == 0o700
    with open_private(private_folder(home / "logs") / "x.log") as log:
        log.write(b"x")
    assert (mode(home / "logs"), mode(home / "logs" / "x.log")) == (0o700, 0o600)


@pytest.mark.parametrize("environ", [{"XDG_DATA_HOME": "{}"}, {"ENDMARK_HOME": "{}/endmark"}])
def test_an_older_home_is_tightened_when_it_is_opened(tmp_path, environ):
    home = older_home(tmp_path / "endmark")
    (home / "logs" / "worker-1.log").chmod(0o755)
    Settings.load({name: value.format(tmp_path) for name, value in environ.items()})
    assert mode(home) == 0o700
    assert [path for path in own(home) if mode(path) & 0o077] == []
    assert mode(home / "logs" / "worker-1.log") == 0o700


def test_the_default_home_is_private_even_if_empty(tmp_path):
    (tmp_path / "endmark").mkdir()
    Settings.load({"XDG_DATA_HOME": str(tmp_path)})
    assert mode(tmp_path / "endmark") == 0o700


def test_a_shared_folder_keeps_its_mode_and_what_others_have_in_it(tmp_path):
    home = older_home(tmp_path / "shared")
    (home / "theirs.txt").write_text("x")
    load(home)
    assert (mode(home), mode(home / "theirs.txt")) == (0o777, 0o666)
    assert [path for path in own(home) if mode(path) & 0o077] == []


def test_a_folder_that_the_user_has_made_keeps_its_mode_for_good(tmp_path):
    """Its content is private from the beginning, so nothing says that an older version made the folder."""
    home = tmp_path / "mine"
    home.mkdir(mode=0o750)
    for _ in range(2):
        load(home)
        open_private(home / "endmark.db").close()
        private_folder(home / "logs")
    assert mode(home) == 0o750
    assert mode(home / "endmark.db") == 0o600


def test_a_home_that_a_group_shares_is_not_taken_from_it(tmp_path):
    home = older_home(tmp_path / "group")
    home.chmod(0o2770)
    load(home)
    assert mode(home) == 0o2770


def test_links_out_of_the_home_are_not_followed(tmp_path):
    home = older_home(tmp_path / "home")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    (home / "logs" / "link").symlink_to(outside / "file")
    (home / "broker").symlink_to(outside)
    load(home)
    assert (mode(outside), mode(outside / "file")) == (0o777, 0o666)


def test_a_file_of_the_user_is_not_tightened_by_being_opened(tmp_path):
    path = Path(tmp_path / "x")
    path.write_text("")
    open_private(path).close()
    assert mode(path) == 0o666
