from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tallymark.errors import PathError, UsageError
from tallymark.fs import OsFileSystem
from tallymarkd.service import render
from tallymarkd.service.installation import Installation
from tallymarkd.service.machine import Ran, ServiceError
from tallymarkd.service.managers import Condition
from tallymarkd.service.places import system_places, user_places
from tallymarkd.service.render import SERVICE, SOCKET, SYSUSERS
from tallymarkd.service.systemd import SystemSystemd, UserSystemd
from tests.service_parts import FakeManager, installation

FS = OsFileSystem()
STOPPED = Condition(listening=False, running=False, enabled=False)
LISTENING = Condition(listening=True, running=False, enabled=True)
RUNNING = Condition(listening=True, running=True, enabled=True)


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeManager:
    return FakeManager(tmp_path_factory.mktemp("m"))


OPT = Installation(Path("/opt/t/bin/tallymarkd"), Path("/opt/t/bin/python"))


def user(fake: FakeManager, installed: Installation = OPT, **env: str) -> UserSystemd:
    env = {"XDG_STATE_HOME": "/data", **env}
    machine = fake.machine(uid=1000, **env)
    return UserSystemd(machine, FS, installed, user_places(machine))


def system(fake: FakeManager, uid: int = 0) -> SystemSystemd:
    return SystemSystemd(fake.machine(uid=uid), FS, OPT, system_places())


def commands(steps: object) -> list[str]:
    assert isinstance(steps, list)
    return [" ".join(step.command) for step in steps]


def test_a_users_files(fake: FakeManager) -> None:
    files = user(fake).files()
    folder = fake.home / ".config" / "systemd" / "user"
    assert list(files) == [folder / SOCKET, folder / SERVICE] == user(fake).paths()
    service = files[folder / SERVICE]
    assert (
        "\nExecStart=:/opt/t/bin/tallymarkd --state-dir /data/tallymark "
        "--spool-dir /data/tallymark/spool\n" in service
    )
    assert "\nReadWritePaths=/data/tallymark\n" in service
    assert "\nListenStream=/data/tallymark/run/tallymark.sock\n" in files[folder / SOCKET]


def test_what_is_elsewhere_is_writable_too_and_in_the_environment(fake: FakeManager) -> None:
    found = user(fake, TALLYMARK_STATE_DIR="/s 1", XDG_CONFIG_HOME="/c 1").files()
    text = next(text for path, text in found.items() if path.name == SERVICE)
    assert '\nReadWritePaths="/s 1" -/data/tallymark/spool\n' in text
    assert '\nEnvironment="XDG_CONFIG_HOME=/c 1"\n' in text


def test_units_go_where_the_manager_looks(fake: FakeManager) -> None:
    usual = fake.home / ".config" / "systemd" / "user"
    assert user(fake, XDG_CONFIG_HOME="/conf").paths()[0].parent == usual
    fake.unit_path = "/etc/systemd/user /conf/systemd/user"
    assert user(fake, XDG_CONFIG_HOME="/conf").paths()[0].parent == Path("/conf/systemd/user")


def test_where_there_are_no_namespaces_the_unit_asks_for_none(fake: FakeManager) -> None:
    fake.sandbox_status = "226"
    manager = user(fake)
    files = manager.files()
    (tried,) = [line for line in fake.commands if line.startswith("systemd-run")]
    assert "--property=PrivateUsers=yes" in tried
    assert "ReadWritePaths" not in tried
    for path, text in files.items():
        assert "PrivateUsers=" not in text
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert any("no namespaces" in note for note in manager.notes())
    # What is installed is compared with its like, and nothing is tried for that.
    fake.commands.clear()
    assert manager.installed_files() == files
    assert not [line for line in fake.commands if line.startswith("systemd-run")]


@pytest.mark.parametrize("status", ["217", "218", "225", "226"])
def test_what_systemd_says_of_a_service_that_gets_no_namespaces(
    fake: FakeManager, status: str
) -> None:
    fake.sandbox_status = status
    service = user(fake).files()[user(fake).paths()[1]]
    assert "PrivateUsers=" not in service


@pytest.mark.parametrize("status", ["0", "1", "203", ""])
def test_what_fails_otherwise_says_nothing_of_namespaces(fake: FakeManager, status: str) -> None:
    fake.fails["systemd-run"] = Ran(1, err="Failed to connect to bus\n")
    fake.sandbox_status = status
    with pytest.raises(ServiceError, match="cannot see whether .*: Failed to connect to bus;"):
        user(fake).files()


def test_a_sandbox_hides_tmp(fake: FakeManager, tmp_path: Path) -> None:
    with pytest.raises(PathError, match="cannot have tallymarkd in"):
        user(fake, installation(tmp_path)).files()
    with pytest.raises(PathError, match="cannot have the state directory in /tmp/s"):
        user(fake, TALLYMARK_STATE_DIR="/tmp/s").files()
    with pytest.raises(PathError, match="cannot have the spool directory in /tmp/s"):
        user(fake, TALLYMARK_SPOOL_DIR="/tmp/s").files()
    fake.sandbox_status = "226"
    assert user(fake, TALLYMARK_STATE_DIR="/tmp/s").files()


def test_the_systems_files(fake: FakeManager, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Installation] = []
    monkeypatch.setattr("tallymarkd.service.installation.check_for_system", checked.append)
    files = system(fake).files()
    assert checked == [OPT]
    etc = fake.root / "etc"
    units = etc / "systemd" / "system"
    assert list(files) == [etc / "sysusers.d" / SYSUSERS, units / SOCKET, units / SERVICE]
    assert "\nu tallymark - " in files[etc / "sysusers.d" / SYSUSERS]
    assert "ExecStart=:/opt/t/bin/tallymarkd " in files[units / SERVICE]


def test_the_system_is_roots(fake: FakeManager) -> None:
    system(fake).check()
    with pytest.raises(UsageError, match="only root may"):
        system(fake, uid=1000).check()


@pytest.mark.parametrize("make", [user, system])
def test_without_systemd(fake: FakeManager, make: object) -> None:
    assert callable(make)
    (fake.root / "run/systemd/system").rmdir()
    with pytest.raises(ServiceError, match="cannot use systemd: this machine was not started"):
        make(fake).check()


def test_without_a_user_manager(fake: FakeManager) -> None:
    user(fake).check()
    fake.fails["systemctl --user"] = Ran(1, err="Failed to connect to bus: No medium found\n")
    with pytest.raises(ServiceError) as caught:
        user(fake).check()
    text = str(caught.value)
    assert text.startswith("cannot reach the systemd user manager of alice: Failed to connect")
    assert "loginctl enable-linger alice" in text
    assert "--system" not in text
    machine = fake.machine(uid=0)
    root = UserSystemd(machine, FS, OPT, user_places(machine))
    with pytest.raises(ServiceError, match="for a service of the whole system: --system"):
        root.check()


def test_without_the_systems_manager(fake: FakeManager) -> None:
    fake.fails["systemctl show"] = Ran(1, err="Connection refused\n")
    with pytest.raises(ServiceError, match="cannot reach systemd: Connection refused"):
        system(fake).check()


def test_condition(fake: FakeManager) -> None:
    assert user(fake).condition() == STOPPED
    fake.state.update({SOCKET: "active", SERVICE: "activating"})
    fake.enabled = True
    assert user(fake).condition() == dataclasses.replace(RUNNING, starting=True)
    fake.state[SERVICE] = "active"
    assert user(fake).condition() == RUNNING
    fake.state.update({SOCKET: "failed", SERVICE: "failed"})
    fake.result.update({SOCKET: "service-start-limit-hit", SERVICE: "exit-code"})
    found = user(fake).condition()
    assert not found.listening
    assert not found.running
    assert found.failed == (
        "tallymarkd.socket: service-start-limit-hit, tallymarkd.service: exit-code"
    )


ENABLE = "systemctl --user enable --now tallymarkd.socket"
RELOAD = "systemctl --user daemon-reload"


@pytest.mark.parametrize(
    ("changed", "before", "expected"),
    [
        ([SOCKET, SERVICE], STOPPED, [RELOAD, ENABLE]),
        ([], RUNNING, [ENABLE]),
        ([SERVICE], LISTENING, [RELOAD, ENABLE]),
        (
            [SERVICE],
            RUNNING,
            [RELOAD, "systemctl --user try-restart tallymarkd.service", ENABLE],
        ),
        (
            [SOCKET, SERVICE],
            RUNNING,
            [RELOAD, "systemctl --user stop tallymarkd.socket tallymarkd.service", ENABLE],
        ),
        (
            [],
            Condition(listening=False, running=False, enabled=True, failed="why"),
            ["systemctl --user reset-failed tallymarkd.socket tallymarkd.service", ENABLE],
        ),
    ],
)
def test_only_what_must_be_is_restarted(
    fake: FakeManager, changed: list[str], before: Condition, expected: list[str]
) -> None:
    paths = {Path("/u") / name for name in changed}
    assert commands(user(fake).after_writing(paths, before)) == expected


def test_the_system_makes_its_user_first(fake: FakeManager) -> None:
    steps = commands(system(fake).after_writing({Path(SOCKET)}, STOPPED))
    assert steps[0] == f"systemd-sysusers {fake.root}/etc/sysusers.d/tallymark.conf"
    assert steps[-1] == "systemctl enable --now tallymarkd.socket"
    assert commands(system(fake).after_removing())[-1] == "rmdir /run/tallymark"


def test_the_installed_socket_tells_where_the_state_is(fake: FakeManager) -> None:
    manager = user(fake)
    assert manager.state_dir() == Path("/data/tallymark")
    path = manager.paths()[0]
    path.parent.mkdir(parents=True)
    listen = f"ListenStream={render.literal('/100% x/run/tallymark.sock')}"
    path.write_text(f"[Socket]\n{listen}\n")
    assert manager.state_dir() == Path("/data/tallymark"), "it is not ours"
    path.write_text(f"# {render.marker()}\n[Socket]\n{listen}\n")
    assert manager.socket() == Path("/100% x/run/tallymark.sock")
    assert manager.state_dir() == Path("/100% x")


def test_what_is_installed_is_found_where_units_may_be(fake: FakeManager) -> None:
    assert user(fake).kept() is None
    for path, text in user(fake).files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    fake.commands.clear()
    kept = user(fake, XDG_CONFIG_HOME="/conf").kept()
    assert kept is not None
    assert kept.state_dir == Path("/data/tallymark")
    assert fake.commands == []
    assert system(fake).kept() is None


def test_lines(fake: FakeManager) -> None:
    mine, ours = user(fake).lines(), system(fake).lines()
    assert mine.start == "systemctl --user start tallymarkd.socket"
    assert mine.stop == "systemctl --user stop tallymarkd.socket"
    assert mine.log == "journalctl --user-unit tallymarkd.service --follow"
    assert ours.restart == "systemctl restart tallymarkd.service"
    assert ours.log == "journalctl --unit tallymarkd.service --follow"


def test_lingering_is_told_where_it_is_needed(fake: FakeManager) -> None:
    manager = user(fake)
    for path, text in manager.files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert manager.notes() == []
    fake.lingers = "no"
    (note,) = manager.notes()
    assert note.endswith("loginctl enable-linger alice")
    fake.fails["loginctl"] = Ran(1, err="no logind")
    assert manager.notes() == []
    assert "group tallymark" in system(fake).notes()[0]
