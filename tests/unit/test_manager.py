from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tallymark.errors import UsageError
from tallymark.fs import OsFileSystem
from tallymarkd import manager as manager_module
from tallymarkd.config import Settings, load_settings
from tallymarkd.manager import Manager, on_terminal
from tallymarkd.server import launchd


def settings(tmp_path: Path, **options: str) -> Settings:
    return load_settings({"state_dir": str(tmp_path / "s"), **options}, {"HOME": str(tmp_path)})


def manager(settings: Settings, env: dict[str, str] | None = None) -> Manager:
    return Manager.from_environment(settings, OsFileSystem(), {} if env is None else env)


@pytest.fixture
def handed_over(sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_module, "inherited_socket", lambda env, pid: sock)


def test_started_by_hand_there_is_nobody(tmp_path: Path) -> None:
    given = settings(tmp_path)
    found = manager(given)

    assert found.settings is given
    assert not found.notifier
    assert found.watchdog_seconds is None
    assert found.listener is None


def test_what_systemd_leaves_is_taken_out_of_the_environment(tmp_path: Path) -> None:
    env = {
        "NOTIFY_SOCKET": "/run/notify",
        "WATCHDOG_USEC": "2000000",
        "WATCHDOG_PID": str(os.getpid()),
        "LISTEN_PID": "1",
        "LISTEN_FDS": "1",
        "HOME": "/home/me",
    }

    found = manager(settings(tmp_path), env)

    assert found.notifier
    assert found.watchdog_seconds == 2.0
    assert env == {"HOME": "/home/me"}


@pytest.mark.usefixtures("handed_over")
def test_the_path_is_that_of_the_socket_that_was_handed_over(
    tmp_path: Path, sock: socket.socket
) -> None:
    found = manager(settings(tmp_path))

    assert found.settings.socket == tmp_path / "t.sock"
    assert found.settings.origins["socket"] == "handed over by the service manager"
    assert found.listener is not None
    found.listener.close()
    assert sock.fileno() == -1
    assert (tmp_path / "t.sock").is_socket()  # the name is not ours to remove


@pytest.mark.usefixtures("handed_over")
def test_a_socket_that_was_asked_for_must_be_the_one(tmp_path: Path) -> None:
    same = manager(settings(tmp_path, socket=str(tmp_path / "t.sock")))
    assert same.settings.socket == tmp_path / "t.sock"

    with pytest.raises(UsageError, match="cannot listen on .*/other.sock .option --socket."):
        manager(settings(tmp_path, socket=str(tmp_path / "other.sock")))


def test_launchd_is_asked_when_the_settings_say_so(
    tmp_path: Path, sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def activate(name: str) -> list[int]:
        asked.append(name)
        return [os.dup(sock.fileno())]

    monkeypatch.setattr(launchd, "activate", activate)

    found = manager(settings(tmp_path, launchd="true"))

    assert asked == ["tallymarkd"]
    assert found.settings.socket == tmp_path / "t.sock"
    assert found.listener is not None
    found.listener.close()


def test_two_sockets_of_launchd_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchd, "activate", lambda name: [3, 4])

    with pytest.raises(UsageError, match="cannot use 2 sockets of launchd: one is right"):
        manager(settings(tmp_path, launchd="true"))


def test_whether_there_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = os.openpty()
    try:
        isatty = os.isatty
        monkeypatch.setattr(os, "isatty", lambda fd: isatty(follower))
        assert on_terminal()
        os.close(leader)
        assert not on_terminal()
    finally:
        os.close(follower)
