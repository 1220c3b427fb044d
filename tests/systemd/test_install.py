"""``tallymark service install`` as users do it, and what is left after ``uninstall``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.daemon import wait_for
from tests.stored_ids import ids_in_journal
from tests.systemd.installed import install
from tests.systemd.machine import Machine
from tests.systemd.programs import PYTHON
from tests.systemd.services import SERVICE, SOCKET, Service

WHO = "carol"
"""She has no service of anybody's about her, and the packages in her own home."""

DATA = Path(".local/state/tallymark")

CRON_PATH = "/usr/bin:/bin"


@pytest.fixture(scope="module")
def commands(machine: Machine) -> Path:
    """Her environment's bin folder, with both distributions installed from wheels."""
    machine.add_user(WHO)
    return install(machine, machine.home(WHO) / "agents" / "venv", user=WHO)


@pytest.fixture(params=["login", "cron", "su"])
def surroundings(machine: Machine, request: pytest.FixtureRequest) -> Mapping[str, str]:
    """What is around her commands: after a login, in a job of cron's, and after su from a
    session whose bus is not that of her manager."""
    found = machine.environment(WHO)
    if request.param == "cron":
        found = {name: found[name] for name in ("HOME", "LOGNAME", "SHELL")}
        found["PATH"] = CRON_PATH
    if request.param == "su":
        found["XDG_RUNTIME_DIR"] = "/run/user/0"
        found["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=/run/user/0/bus"
    return found


@pytest.fixture
def home(machine: Machine, commands: Path) -> Iterator[Path]:
    """Her home, without data before and after; seen from here."""
    yield machine.path(machine.home(WHO))
    machine.run(str(commands / "tallymark"), "service", "uninstall", user=WHO, check=False)
    machine.run("rm", "-rf", f"{machine.home(WHO)}/.local", f"{machine.home(WHO)}/.config")


def tree(folder: Path) -> dict[str, str]:
    """What stands in a folder, less the data: every path, with what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name == DATA or DATA in name.parents or name in DATA.parents:
            continue
        if path.is_symlink():
            found[f"{name}"] = f"-> {path.readlink()}"
        elif path.is_file():
            found[f"{name}"] = hashlib.blake2b(path.read_bytes()).hexdigest()
        else:
            found[f"{name}"] = oct(path.stat().st_mode)
    return found


def test_an_event_arrives_and_uninstalling_leaves_nothing_but_the_data(
    machine: Machine, commands: Path, surroundings: Mapping[str, str], home: Path
) -> None:
    def tallymark(*arguments: str) -> str:
        done = machine.run(str(commands / "tallymark"), *arguments, user=WHO, env=surroundings)
        return done.stdout

    before = tree(home)
    tallymark("service", "install")
    unit = home / ".config/systemd/user" / SERVICE
    assert "\nPrivateUsers=yes\n" in unit.read_text()
    sentence = ("emit", "--type", "run.end", "--agent", "job", "--status", "success")
    tallymark(*sentence, "--event-id", "from-home", "--project", "p")
    assert "from-home" in tallymark("dump", "--project", "p")
    tallymark("service", "uninstall")
    assert tree(home) == before
    assert ids_in_journal(home / DATA) == ["from-home"]
    assert machine.run("systemctl", "--user", "show", "--property=LoadState", "--value",
                       SOCKET, user=WHO).stdout.strip() == "not-found"  # fmt: skip


def test_a_spool_directory_that_was_removed_does_not_stop_it(
    machine: Machine, commands: Path, home: Path
) -> None:
    spool = f"{machine.home(WHO)}/.local/agents spool"
    tallymark = str(commands / "tallymark")
    env = {**machine.environment(WHO), "TALLYMARK_SPOOL_DIR": spool}
    machine.run(tallymark, "service", "install", user=WHO, env=env)
    assert f'"-{spool}"' in (home / ".config/systemd/user" / SERVICE).read_text()
    machine.run("systemctl", "--user", "stop", SERVICE, user=WHO)
    machine.run("rmdir", spool)
    assert '"ok"' in machine.run(tallymark, "health", "--deep", "--json", user=WHO).stdout


@pytest.fixture
def without_namespaces(machine: Machine) -> Iterator[str]:
    """A user whose own manager, and all that it starts, gets no namespaces."""
    machine.run("useradd", "--create-home", "--shell", "/bin/sh", "dan")
    drop_ins = f"/run/systemd/system/user@{machine.uid('dan')}.service.d"
    machine.run("mkdir", "-p", drop_ins)
    machine.run("tee", f"{drop_ins}/none.conf", stdin="[Service]\nRestrictNamespaces=yes\n")
    machine.run("systemctl", "daemon-reload")
    machine.add_user("dan")
    yield "dan"
    machine.run("loginctl", "disable-linger", "dan")
    machine.run("systemctl", "stop", f"user@{machine.uid('dan')}.service")
    machine.run("rm", "-r", drop_ins)


def test_without_namespaces_it_starts_without_its_sandbox(
    machine: Machine, without_namespaces: str
) -> None:
    tallymark = str(PYTHON.parent / "tallymark")
    done = machine.run(tallymark, "service", "install", user=without_namespaces)
    assert "gives its users' services no namespaces" in done.stderr
    assert "health ok" in done.stdout
    status = machine.run(tallymark, "service", "status", user=without_namespaces)
    assert "daemon     running" in status.stdout


def test_the_services_units_and_nothing_else_go(installed: Service) -> None:
    machine = installed.machine
    places = ["/etc/systemd", "/etc/sysusers.d", "/run/tallymark"]
    if not installed.system:
        places = [f"{machine.home(installed.owner)}/.config"]

    def ours() -> list[str]:
        found = machine.run("find", *places, "-name", "*tallymark*", check=False).stdout
        return found.splitlines()

    installed.afresh()
    assert installed.health()["status"] == "ok"
    assert len(ours()) >= 2
    try:
        said = installed.uninstall()
        assert str(installed.state_dir) in said
        assert ours() == []
        assert [installed.active(unit) for unit in (SERVICE, SOCKET)] == ["inactive"] * 2
        assert not machine.path(installed.socket).exists()
        assert list(machine.path(installed.state_dir / "journal").glob("*.seg"))
    finally:
        said = installed.install()
    wait_for("a service that listens", lambda: installed.active(SOCKET) == "active")
    assert installed.health()["recovery"]["clean"] is True


def test_an_install_that_was_cut_off_is_finished_by_the_next(installed: Service) -> None:
    """Its files are written; systemd has not read them, or has, and what runs is older."""
    installed.afresh()
    assert installed.health()["status"] == "ok"
    folder = installed.show("FragmentPath").rpartition("/")[0]
    for unit in (SERVICE, SOCKET):
        for read in (False, True):
            was = installed.show("MainPID")
            installed.machine.run("touch", f"{folder}/{unit}", user=installed.owner)
            if read:
                installed.systemctl("daemon-reload")
            assert f"{unit} has changed" in installed.status().stdout
            assert installed.install().count("unchanged") >= 2
            assert installed.show("MainPID") not in (was, "0")
            assert installed.status().returncode == 0
    was = installed.show("MainPID")
    installed.install()
    assert installed.show("MainPID") == was


def test_a_daemon_that_does_not_stay_up_is_told(installed: Service) -> None:
    installed.afresh()
    with installed.changed("ExecStart=", "ExecStart=/bin/false"):
        installed.systemctl("start", "--no-block", SERVICE)
        installed.until("another start", lambda: installed.restarts() >= 1)
        done = installed.status()
        installed.systemctl("stop", SOCKET, SERVICE)
    assert done.returncode == 1
    assert "it does not stay up (" in done.stdout
    assert "daemon     running" not in done.stdout
