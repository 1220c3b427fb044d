from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tallymark.fs import OsFileSystem
from tallymarkd.core.backup_manifest import read_manifest
from tallymarkd.core.holds import Held
from tests.fake_daemon import FakeDaemon
from tests.state_dirs import SERVER_UUID, Core, a_history
from tests.tallymark_command import Tallymark


@pytest.fixture
def live(tallymark: Tallymark) -> Iterator[tuple[Core, FakeDaemon]]:
    """A state that goes on, and a daemon that says so."""
    core = a_history(tallymark.state_dir)
    held = Held(
        durable_lsn=core.journal.durable_lsn, state_dir=str(tallymark.state_dir),
        server_id=str(SERVER_UUID), version="0.2",
    )  # fmt: skip
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.replies = {"hold": [msgspec.json.encode(held)]}
        yield core, daemon
    core.crash()


def test_a_running_daemon_is_backed_up_and_said_so(
    live: tuple[Core, FakeDaemon], tallymark: Tallymark, tmp_path: Path
) -> None:
    done = tallymark("backup", str(tmp_path / "b"))

    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"{tmp_path / 'b'}: backed up, verified"
    names = ("of", "server", "begun", "journal", "events", "files")
    assert [line[:15] for line in lines[1:]] == [f"  {name:<13}" for name in names]
    assert f"{tallymark.state_dir}, while tallymarkd ran" in done.out
    manifest = read_manifest(OsFileSystem(), tmp_path / "b")
    assert manifest.live
    assert manifest.durable_lsn == live[0].journal.durable_lsn


def test_as_json_it_is_the_manifest(
    live: tuple[Core, FakeDaemon], tallymark: Tallymark, tmp_path: Path
) -> None:
    done = tallymark("backup", str(tmp_path / "b"), "--json")

    manifest = msgspec.to_builtins(read_manifest(OsFileSystem(), tmp_path / "b"))
    assert (done.code, done.json) == (0, {"backup": str(tmp_path / "b"), **manifest})


def test_a_stopped_one_is_backed_up_under_its_lock(tallymark: Tallymark, tmp_path: Path) -> None:
    a_history(tallymark.state_dir).crash()
    (tallymark.state_dir / "projects" / ".DS_Store").touch()

    done = tallymark("backup", str(tmp_path / "b"))

    assert (done.code, done.err) == (0, "")
    assert "while tallymarkd was stopped" in done.out
    assert "left out     projects/.DS_Store: none of tallymarkd's files" in done.out
    assert not read_manifest(OsFileSystem(), tmp_path / "b").live
    # It is free again.
    OsFileSystem().close(OsFileSystem().lock(tallymark.state_dir / "lock"))


def test_one_that_runs_and_does_not_answer_is_left_alone(
    tallymark: Tallymark, tmp_path: Path
) -> None:
    a_history(tallymark.state_dir).crash()
    lock = OsFileSystem().lock(tallymark.state_dir / "lock")
    try:
        done = tallymark("backup", str(tmp_path / "b"))
    finally:
        OsFileSystem().close(lock)

    assert done.code == 1
    assert "is at work on it and does not answer" in done.err
    assert not (tmp_path / "b").exists()


def test_where_nothing_is_that_is_usage(tallymark: Tallymark, tmp_path: Path) -> None:
    done = tallymark("--state-dir", str(tmp_path / "none"), "backup", str(tmp_path / "b"))

    assert done.code == 2
    assert "cannot back up: there is no state of tallymarkd in " in done.err
    assert not (tmp_path / "none").exists()


def test_a_directory_with_something_in_it_is_usage(tallymark: Tallymark, tmp_path: Path) -> None:
    a_history(tallymark.state_dir).crash()
    target = tmp_path / "b"
    target.mkdir()
    (target / "mine").touch()

    done = tallymark("backup", str(target))

    assert done.code == 2
    assert "it is not empty" in done.err
    assert [path.name for path in target.iterdir()] == ["mine"]


def test_where_something_should_be_mounted_no_directories_are_made(
    tallymark: Tallymark, tmp_path: Path
) -> None:
    a_history(tallymark.state_dir).crash()

    done = tallymark("backup", str(tmp_path / "usb" / "backups" / "b"))

    assert done.code == 2
    parent = tmp_path / "usb" / "backups"
    assert f"there is no directory {parent}; mount what belongs there, or make it" in done.err
    assert not (tmp_path / "usb").exists()


def test_another_users_state_is_not_called_none(
    tallymark: Tallymark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks as if nothing were there."""
    tallymark.state_dir.mkdir()

    def refused(self: OsFileSystem, path: Path) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(OsFileSystem, "names", refused)
    done = tallymark("backup", str(tmp_path / "b"))

    root = tallymark.state_dir
    told = f"cannot back up {root}: cannot read {root}: permission denied; run this as the user"
    assert (done.code, told in done.err) == (1, True)
    assert tallymark("verify", str(root)).code == 2
    assert f"cannot verify {root}: cannot read {root}" in tallymark("verify", str(root)).err


def test_a_state_of_ours_goes_before_anothers_that_cannot_be_read(
    tallymark: Tallymark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_history(tallymark.state_dir).crash()
    system = tmp_path / "system"
    system.mkdir()
    monkeypatch.setattr("tallymark.paths.SYSTEM_STATE_DIR", system)
    names = OsFileSystem.names

    def refused(self: OsFileSystem, path: Path) -> list[str]:
        if path == system:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return names(self, path)

    monkeypatch.setattr(OsFileSystem, "names", refused)

    assert tallymark("backup", str(tmp_path / "b")).code == 0
