from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tallymark.fs import OsFileSystem
from tallymark.protocol.messages import HealthReport
from tallymarkd.cli import stopping
from tallymarkd.cli.stopping import stop_line
from tests.backups import a_backup
from tests.fake_daemon import FakeDaemon
from tests.tallymark_command import Tallymark

USER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/tallymarkd.service\n"
SYSTEM = "0::/system.slice/tallymarkd.service\n"
SHELL = "0::/user.slice/user-1000.slice/session-3.scope\n"


@pytest.mark.parametrize(
    ("groups", "line"),
    [
        (USER, "systemctl --user stop tallymarkd.socket"),
        (SYSTEM, "systemctl stop tallymarkd.socket"),
        (SHELL, "kill 4711"),
        (None, "kill 4711"),
    ],
)
def test_who_holds_its_socket_is_asked_to_stop_it(
    tmp_path: Path, groups: str | None, line: str
) -> None:
    if groups is not None:
        (tmp_path / "4711").mkdir()
        (tmp_path / "4711" / "cgroup").write_text(groups)

    assert stop_line(4711, tmp_path, "linux") == line


@pytest.mark.parametrize("own", [True, False])
def test_launchd_starts_its_own_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    monkeypatch.setattr(stopping, "_is_of_launchd", lambda pid: own)

    line = stop_line(4711, tmp_path, "darwin")

    job = "launchctl bootout gui/$(id -u)/org.tallymark.tallymarkd"
    assert line == (job if own else "kill 4711")


def test_only_a_child_of_the_first_process_is_launchds() -> None:
    assert stopping._is_of_launchd(os.getpid()) == (os.getppid() == 1)
    assert not stopping._is_of_launchd(2**22 + 1)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    return a_backup(tmp_path / "made")


def refused(tallymark: Tallymark, backup: Path, command: str, report: dict[str, Any] | None) -> str:
    """What a command says of a directory that is locked, with a daemon that reports so."""
    root = tallymark.state_dir
    (root / "journal").mkdir(parents=True, exist_ok=True)
    fs = OsFileSystem()
    lock = fs.lock(root / "lock")
    try:
        if report is None:
            return tallymark(command, *([str(backup)] * (command == "restore"))).err
        with FakeDaemon(tallymark.socket) as daemon:
            daemon.health = HealthReport(id=0, status="ok", report=report)
            return tallymark(command, *([str(backup)] * (command == "restore"))).err
    finally:
        fs.close(lock)


@pytest.mark.parametrize("command", ["verify", "repair", "restore"])
def test_a_refusal_says_what_stops_the_daemon_that_runs_there(
    tallymark: Tallymark, backup: Path, command: str
) -> None:
    root = tallymark.state_dir
    told = refused(tallymark, backup, command, {"pid": 4194305, "state_dir": str(root)})

    assert told.startswith(
        f"tallymark: cannot {command} {root}: tallymarkd runs on it (pid 4194305); stop it first: "
        "`kill 4194305`"
    )
    assert ("`tallymark health --deep`" in told) == (command == "verify")


@pytest.mark.parametrize("report", [None, {"pid": 1, "state_dir": "/elsewhere"}, {"pid": "x"}, {}])
def test_where_it_does_not_say_it_is_told_how_services_are_stopped(
    tallymark: Tallymark, backup: Path, report: dict[str, Any] | None
) -> None:
    told = refused(tallymark, backup, "restore", report)

    assert "tallymarkd runs on it, or a backup, restore or repair is at work on it" in told
    assert "`systemctl --user stop tallymarkd.socket`" in told
