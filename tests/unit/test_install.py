from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest

from tallymark.errors import ConnectError, StorageError, UsageError
from tallymark.fs import FileSystem, OsFileSystem
from tallymark.protocol.messages import HealthReport
from tallymarkd.core.layout import Layout
from tallymarkd.service import install as installing
from tallymarkd.service.installation import Installation
from tallymarkd.service.launchctl import Launchd
from tallymarkd.service.machine import Ran, ServiceError
from tallymarkd.service.managers import Manager
from tallymarkd.service.render import MARK, SERVICE, SOCKET
from tallymarkd.service.systemd import SystemSystemd, UserSystemd
from tests.fake_daemon import FakeDaemon
from tests.service_parts import FakeManager, Told

FS = OsFileSystem()
OPT = Installation(Path("/opt/t/bin/tallymarkd"), Path("/opt/t/bin/python"))


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeManager:
    found = FakeManager(tmp_path_factory.mktemp("m"))
    # The tests' directory is below /tmp, which a sandbox would hide.
    found.fails["systemd-run"] = Ran(217)
    return found


class Scene:
    """One user, on one machine."""

    def __init__(self, fake: FakeManager, state_dir: str = "s", fs: FileSystem = FS) -> None:
        self.fake = fake
        self.fs = fs
        self.machine = fake.machine()
        self.places = installing.places_for(
            self.machine, system=False, state_dir=fake.root / state_dir
        )
        self.manager: Manager = installing.manager_for(
            self.machine, fs, OPT, self.places, system=False
        )
        self.told = Told()

    @property
    def units(self) -> Path:
        return self.fake.home / ".config" / "systemd" / "user"

    def install(self) -> Told:
        self.told = Told()
        installing.install(
            self.machine, self.fs, self.manager, self.places, system=False, tell=self.told
        )
        return self.told

    def uninstall(self) -> bool:
        self.told = Told()
        return installing.uninstall(self.machine, self.fs, self.manager, self.told)


def test_which_manager(fake: FakeManager) -> None:
    def made(platform: str, *, system: bool) -> Manager:
        machine = fake.machine(platform=platform, TALLYMARK_STATE_DIR="/s")
        places = installing.places_for(machine, system=system, state_dir=None)
        return installing.manager_for(machine, FS, OPT, places, system=system)

    assert isinstance(made("linux", system=False), UserSystemd)
    assert isinstance(made("linux", system=True), SystemSystemd)
    assert isinstance(made("darwin", system=False), Launchd)
    with pytest.raises(UsageError, match="cannot use --system on macOS"):
        made("darwin", system=True)
    with pytest.raises(ServiceError, match="cannot handle services on freebsd14"):
        made("freebsd14", system=False)


def test_the_systems_state_directory_is_fixed(fake: FakeManager) -> None:
    with pytest.raises(UsageError, match="cannot use --state-dir with --system"):
        installing.places_for(fake.machine(), system=True, state_dir=Path("/s"))


def test_the_first_time(fake: FakeManager) -> None:
    scene = Scene(fake)
    told = scene.install()
    assert told.of("written") == [str(scene.units / SOCKET), str(scene.units / SERVICE)]
    assert (
        fake.changes
        == told.of("ran")
        == [
            "systemctl --user daemon-reload",
            "systemctl --user enable --now tallymarkd.socket",
        ]
    )
    assert fake.asked == [scene.places.socket]
    assert "health ok" in told.of("answers")[0]
    assert scene.places.state_dir.stat().st_mode & 0o777 == 0o700
    assert scene.places.spool_dir.is_dir()


def test_again_and_again(fake: FakeManager) -> None:
    scene = Scene(fake)
    scene.install()
    before = {path: path.stat().st_mtime_ns for path in scene.units.iterdir()}
    fake.commands.clear()
    told = scene.install()
    assert told.of("unchanged") == [str(scene.units / SOCKET), str(scene.units / SERVICE)]
    assert fake.changes == ["systemctl --user enable --now tallymarkd.socket"]
    assert {path: path.stat().st_mtime_ns for path in scene.units.iterdir()} == before


def test_what_has_changed_is_brought_up_to_date(fake: FakeManager) -> None:
    scene = Scene(fake)
    scene.install()
    fake.state[SERVICE] = "active"
    path = scene.units / SERVICE
    whole = path.read_text()
    path.write_text(whole.replace("WatchdogSec=30s\n", ""))
    fake.commands.clear()
    told = scene.install()
    assert told.of("updated") == [str(path)]
    assert "systemctl --user try-restart tallymarkd.service" in fake.changes
    assert path.read_text() == whole


def test_a_new_state_directory_leaves_the_old_one_and_says_so(fake: FakeManager) -> None:
    Scene(fake, "old").install()
    told = Scene(fake, "new").install()
    (note,) = told.of("note")
    assert note.startswith(f"the state was in {fake.root}/old, and stays there")


def test_a_foreign_unit_is_left_alone(fake: FakeManager) -> None:
    scene = Scene(fake)
    scene.units.mkdir(parents=True)
    (scene.units / SERVICE).write_text("[Service]\n")
    with pytest.raises(ServiceError, match="a file that is not from"):
        scene.install()
    assert [path.name for path in scene.units.iterdir()] == [SERVICE]
    assert fake.changes == []


def test_a_daemon_started_by_hand_is_told_with_its_pid(fake: FakeManager) -> None:
    scene = Scene(fake)
    scene.places.socket.parent.mkdir(parents=True)
    with FakeDaemon(scene.places.socket), pytest.raises(ServiceError) as caught:
        scene.install()
    assert "tallymarkd (pid 4711) that was started otherwise runs on" in str(caught.value)
    assert "kill 4711" in str(caught.value)
    assert not scene.units.exists()


@pytest.mark.parametrize("listening", [False, True])
def test_a_daemon_on_the_state_directory_is_known_by_its_lock(
    fake: FakeManager, listening: bool
) -> None:
    scene = Scene(fake)
    fake.state[SOCKET] = "active" if listening else "inactive"
    scene.places.state_dir.mkdir(parents=True)
    lock = FS.lock(Layout(scene.places.state_dir).lock)
    try:
        with pytest.raises(ServiceError, match="a tallymarkd that was started otherwise runs on"):
            scene.install()
        # Our own daemon holds it as well.
        fake.state.update({SOCKET: "active", SERVICE: "active"})
        scene.install()
    finally:
        FS.close(lock)


def test_a_socket_that_the_manager_holds_is_nobody_elses(fake: FakeManager) -> None:
    scene = Scene(fake)
    scene.places.socket.parent.mkdir(parents=True)
    fake.state[SOCKET] = "active"
    with FakeDaemon(scene.places.socket):
        scene.install()
    # Only at the end, when that is to start the daemon.
    assert len(fake.asked) == 1


def test_a_socket_where_nobody_is_does_not_matter(fake: FakeManager) -> None:
    scene = Scene(fake)
    scene.places.socket.parent.mkdir(parents=True)
    # Gone without a word, it leaves its name.
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(scene.places.socket))
    answers = iter([ConnectError("nobody is there"), fake.answer])

    def ask(path: Path) -> HealthReport:
        answer = next(answers)
        if isinstance(answer, HealthReport):
            return answer
        raise answer or AssertionError

    scene.machine = dataclasses.replace(scene.machine, ask=ask)
    assert "health ok" in scene.install().of("answers")[0]
    assert next(answers, None) is None


def test_a_state_directory_that_will_not_do(
    fake: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(fake)
    scene.places.state_dir.write_text("a file")
    with pytest.raises(ServiceError, match=r"cannot use .*/s: .*choose another state directory"):
        scene.install()

    scene.places.state_dir.unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: "s" not in Path(path).parts)
    with pytest.raises(ServiceError, match=r"cannot use .*/s: Permission denied"):
        scene.install()

    def refuse(directory: Path) -> None:
        raise StorageError(f"cannot keep state in {directory}: it is on nfs")

    monkeypatch.setattr("tallymarkd.place.refuse_unsafe", refuse)
    with pytest.raises(StorageError, match="it is on nfs"):
        scene.install()
    assert not scene.units.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("strikt = true", "cannot use setting strikt in"),
        ("socket = '/else'", "cannot use socket = /else .*: the service listens on .*/s/run/"),
    ],
)
def test_settings_with_which_it_would_not_start(fake: FakeManager, text: str, told: str) -> None:
    scene = Scene(fake)
    config = fake.home / ".config" / "tallymark" / "tallymarkd.toml"
    config.parent.mkdir(parents=True)
    config.write_text(text)
    with pytest.raises(UsageError, match=told):
        scene.install()
    assert not scene.units.exists()
    config.write_text("strict = true")
    scene.install()


def test_the_system_has_its_settings_in_etc(
    fake: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallymarkd.service.installation.check_for_system", lambda daemon: None)
    machine = fake.machine(uid=0)
    places = installing.places_for(machine, system=True, state_dir=None)
    manager = installing.manager_for(machine, FS, OPT, places, system=True)
    told = Told()
    config = fake.root / "etc" / "tallymark" / "tallymarkd.toml"
    config.parent.mkdir(parents=True)
    config.write_text("strikt = true")
    with pytest.raises(UsageError, match="cannot use setting strikt in"):
        installing.install(machine, FS, manager, places, system=True, tell=told)
    config.write_text("strict = true")
    installing.install(machine, FS, manager, places, system=True, tell=told)
    assert len(told.of("written")) == 3
    assert fake.asked == [Path("/run/tallymark/tallymark.sock")]
    assert installing.uninstall(machine, FS, manager, told)
    assert told.of("kept") == ["/var/lib/tallymark: what was recorded"]
    assert [path for path in manager.paths() if path.exists()] == []


def test_on_a_mac(fake: FakeManager) -> None:
    machine = fake.machine(platform="darwin", uid=501)
    places = installing.places_for(machine, system=False, state_dir=fake.root / "s")
    manager = installing.manager_for(machine, FS, OPT, places, system=False)

    def install() -> Told:
        told = Told()
        installing.install(machine, FS, manager, places, system=False, tell=told)
        return told

    (path,) = manager.paths()
    assert install().of("written") == [str(path)]
    assert fake.loaded
    assert install().of("unchanged") == [str(path)]
    path.write_text(path.read_text().replace("Standard", "Background"))
    # The old job takes a while to end.
    fake.prints_left = 3
    fake.commands.clear()
    assert install().of("updated") == [str(path)]
    first_out = next(at for at, line in enumerate(fake.commands) if "bootout" in line)
    waiting = [line for line in fake.commands[first_out:] if line.startswith("launchctl print")]
    assert len(waiting) > 1
    assert fake.commands[-1].startswith("launchctl bootstrap gui/501 ")
    told = Told()
    assert installing.uninstall(machine, FS, manager, told)
    assert not fake.loaded
    assert not path.exists()


def test_a_command_that_fails_is_told(fake: FakeManager) -> None:
    fake.fails["systemctl --user enable"] = Ran(1, err="Access denied\n")
    with pytest.raises(ServiceError) as caught:
        Scene(fake).install()
    assert str(caught.value) == (
        "cannot install the service: `systemctl --user enable --now tallymarkd.socket` failed: "
        "Access denied"
    )


def test_a_daemon_that_does_not_answer_is_told_with_its_log(fake: FakeManager) -> None:
    fake.answer = None
    with pytest.raises(ServiceError, match=r"nobody is there; its log: journalctl --user-unit"):
        Scene(fake).install()


def test_a_dry_run_changes_nothing(fake: FakeManager) -> None:
    scene = Scene(fake)
    installing.dry_run(scene.manager, scene.told)
    first, second = scene.told.of("file")
    assert first.startswith(f"{scene.units / SOCKET}\n# {MARK}")
    assert "\nExecStart=:/opt/t/bin/tallymarkd " in second
    assert scene.told.of("run") == [
        "systemctl --user daemon-reload",
        "systemctl --user enable --now tallymarkd.socket",
    ]
    assert fake.changes == []
    assert fake.asked == []
    assert not scene.units.exists()
    assert not scene.places.state_dir.exists()


def test_a_dry_run_without_a_manager_shows_the_usual_and_then_refuses(fake: FakeManager) -> None:
    """An image is built where no service manager runs."""
    (fake.root / "run/systemd/system").rmdir()
    scene = Scene(fake)

    with pytest.raises(ServiceError, match="cannot use systemd: this machine was not started by"):
        installing.dry_run(scene.manager, scene.told)

    _, service = scene.told.of("file")
    assert "\nPrivateUsers=yes\n" in service
    assert scene.told.of("run")[-1] == "systemctl --user enable --now tallymarkd.socket"
    assert fake.commands == []


def test_uninstall_leaves_the_data(fake: FakeManager) -> None:
    scene = Scene(fake)
    scene.install()
    kept = scene.places.state_dir / "kept"
    kept.write_text("data")
    drop_ins = scene.units / f"{SERVICE}.d"
    drop_ins.mkdir()
    fake.commands.clear()
    assert scene.uninstall()
    assert scene.told.of("removed") == [str(scene.units / SOCKET), str(scene.units / SERVICE)]
    assert scene.told.of("kept") == [
        f"{drop_ins}: changes that you made",
        f"{scene.places.state_dir}: what was recorded",
    ]
    assert kept.read_text() == "data"
    assert fake.changes[0] == "systemctl --user disable --now tallymarkd.socket"
    assert "systemctl --user daemon-reload" in fake.changes
    assert list(scene.units.iterdir()) == [drop_ins]


def test_uninstall_finds_the_data_where_the_unit_says(fake: FakeManager) -> None:
    Scene(fake, "old").install()
    scene = Scene(fake, "new")
    assert scene.uninstall()
    assert scene.told.of("kept") == [f"{fake.root}/old: what was recorded"]


def test_uninstall_removes_only_ours(fake: FakeManager) -> None:
    scene = Scene(fake)
    assert not scene.uninstall()
    scene.units.mkdir(parents=True)
    (scene.units / SERVICE).write_text("[Service]\n")
    assert not scene.uninstall()
    assert fake.changes == []
    assert (scene.units / SERVICE).exists()
    assert "is not from `tallymark service install`" in scene.told.of("kept")[0]


def test_the_daemon_is_imported_once_before(fake: FakeManager) -> None:
    installing.warm_up(fake.machine(), OPT)
    assert fake.commands == ["/opt/t/bin/python -c import tallymarkd.app"]
    fake.fails["/opt/t/bin/python"] = Ran(1, err="Traceback\nImportError: no h11\n")
    with pytest.raises(ServiceError, match=r"is not whole: .*ImportError: no h11"):
        installing.warm_up(fake.machine(), OPT)
