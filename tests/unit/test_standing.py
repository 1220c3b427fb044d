from __future__ import annotations

from pathlib import Path

import pytest

from tallymark.fs import OsFileSystem
from tallymark.protocol.messages import HealthReport, Reason
from tallymarkd._version import __version__
from tallymarkd.service.installation import Installation
from tallymarkd.service.places import user_places
from tallymarkd.service.render import SERVICE, SOCKET
from tallymarkd.service.standing import Status, look
from tallymarkd.service.systemd import UserSystemd
from tests.service_parts import FakeManager

FS = OsFileSystem()


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeManager:
    return FakeManager(tmp_path_factory.mktemp("m"))


def status(fake: FakeManager) -> Status:
    machine = fake.machine(XDG_STATE_HOME="/data")
    return look(machine, FS, manager(fake))


def manager(fake: FakeManager) -> UserSystemd:
    machine = fake.machine(XDG_STATE_HOME="/data")
    installed = Installation(Path("/opt/bin/tallymarkd"), Path("/opt/bin/python"))
    return UserSystemd(machine, FS, installed, user_places(machine))


@pytest.fixture
def running(fake: FakeManager) -> FakeManager:
    """Installed, and the daemon is there."""
    for path, text in manager(fake).files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    fake.state.update({SOCKET: "active", SERVICE: "active"})
    fake.enabled = True
    return fake


def test_not_installed(fake: FakeManager) -> None:
    found = status(fake)
    assert (found.installed, found.exit_code, found.problems) == (False, 2, [])
    assert set(found.files.values()) == {"missing"}
    assert fake.asked == []
    assert fake.changes == []


def test_all_is_well(running: FakeManager) -> None:
    found = status(running)
    assert (found.exit_code, found.problems) == (0, [])
    assert set(found.files.values()) == {"current"}
    assert found.daemon is not None
    assert found.daemon["status"] == "ok"
    assert running.asked == [Path("/data/tallymark/run/tallymark.sock")]
    assert running.changes == []


def test_nobody_is_started_to_be_asked(running: FakeManager) -> None:
    running.state[SERVICE] = "inactive"
    found = status(running)
    assert (found.exit_code, found.daemon) == (0, None)
    assert running.asked == []


def test_what_is_not_as_it_should_be(running: FakeManager) -> None:
    socket, service = manager(running).paths()
    service.write_text(service.read_text() + "more\n")
    socket.unlink()
    running.state.update({SOCKET: "inactive", SERVICE: "failed"})
    running.result[SERVICE] = "watchdog"
    running.enabled = False
    found = status(running)
    assert found.exit_code == 1
    assert found.files == {str(socket): "missing", str(service): "differs"}
    assert found.problems == [
        f"{socket} is missing: tallymark service install",
        f"{service} is not what this tallymark would write: tallymark service install",
        ("it has failed (tallymarkd.service: watchdog): journalctl --user-unit "
        "tallymarkd.service --follow tells why; after that tallymark service install"),
        "it is stopped: systemctl --user start tallymarkd.socket",
        "it does not start by itself after a boot: tallymark service install",
    ]  # fmt: skip


def test_a_foreign_unit(fake: FakeManager) -> None:
    _, service = manager(fake).paths()
    service.parent.mkdir(parents=True)
    service.write_text("[Service]\n")
    found = status(fake)
    assert found.exit_code == 2
    assert found.problems == [f"{service} is not from `tallymark service install`"]


def test_a_daemon_that_is_not_well(running: FakeManager) -> None:
    running.answer = HealthReport(
        id=1,
        status="degraded",
        reasons=[Reason(code="disk_low", message="m", remedy="r")],
        report={"version": "0.0.1"},
    )
    found = status(running)
    assert found.exit_code == 1
    assert found.problems == [
        "health is degraded: tallymark health says why",
        (f"tallymarkd 0.0.1 runs, and {__version__} is installed: "
        "systemctl --user restart tallymarkd.service"),
    ]  # fmt: skip


def test_a_daemon_that_does_not_answer(running: FakeManager) -> None:
    running.answer = None
    found = status(running)
    assert (found.exit_code, found.daemon) == (1, None)
    assert "nobody is there; see journalctl" in found.problems[0]


def test_a_daemon_that_does_not_stay_up(running: FakeManager) -> None:
    running.state[SERVICE] = "activating"
    running.result[SERVICE] = "exit-code"
    running.more[SERVICE] = {
        "SubState": "auto-restart", "ExecMainCode": "1", "ExecMainStatus": "74",
    }  # fmt: skip
    found = status(running)
    assert (found.exit_code, found.daemon, running.asked) == (1, None, [])
    assert found.problems == [
        ("it does not stay up (exit-code, exit code 74): journalctl --user-unit "
        "tallymarkd.service --follow tells why")
    ]  # fmt: skip


def test_one_that_is_starting_is_told_as_that(running: FakeManager) -> None:
    running.state[SERVICE] = "activating"
    running.answer = None
    found = status(running)
    assert found.problems[0].startswith("it is still starting, and reads its journal: ")


def test_what_systemd_has_not_taken_over(running: FakeManager) -> None:
    running.more[SOCKET]["NeedDaemonReload"] = "yes"
    assert status(running).problems == [
        "tallymarkd.socket has changed since it was taken over: tallymark service install"
    ]
