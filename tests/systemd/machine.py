"""A booted systemd: this machine's own root, copied on write, in a container."""

from __future__ import annotations

import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.daemon import DEADLINE_SECONDS, wait_for
from tests.systemd import boot, cgroups

USER = "alice"
"""The ordinary user whom every machine has."""

GUEST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GUEST_BASE = Path("/opt/python")
GUEST_CODE = Path("/opt/code")

NEEDED = ("systemd-nspawn", "nsenter", "unshare", "setpriv", "dbus-daemon", "strace")

_numbers = itertools.count(1)


def cannot_boot() -> str:
    """Why no systemd can be booted here; empty when one can."""
    if sys.platform != "linux":
        return f"not on this platform: systemd is not for {platform.system()}"
    if os.geteuid() != 0:
        return "cannot boot a systemd: not root"
    for command in NEEDED:
        if shutil.which(command) is None:
            return f"cannot boot a systemd: no {command}"
    return ""


class Machine:
    """One that has booted. Paths are the guest's, where nothing else is said."""

    def __init__(self, name: str, keeper: subprocess.Popen[bytes], console: Path) -> None:
        self.name = name
        self._keeper = keeper
        self._console = console
        self.leader = wait_for("the guest's first process", self._find_leader)
        wait_for("a systemd that takes orders", self._takes_orders)

    @property
    def root(self) -> Path:
        """The guest's root, seen from here. Absolute links in it lead to the host's."""
        return Path(f"/proc/{self.leader}/root")

    def path(self, inside: Path | str) -> Path:
        """A path of the guest, seen from here."""
        return self.root / Path(inside).relative_to("/")

    def console(self) -> str:
        """What nspawn and the guest's boot have printed."""
        return self._console.read_text(errors="replace")

    def command(
        self, *command: str, user: str = "root", env: Mapping[str, str] | None = None
    ) -> list[str]:
        """What runs a command inside, with no variables but these."""
        variables = self.environment(user) if env is None else env
        # It ends with nsenter, which is what a test can kill.
        become = ["setpriv", "--pdeathsig", "KILL"]
        if user != "root":
            become += [f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return [
            "nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--",
            *become, "--",
            "env", "-i", "--chdir=/", *(f"{name}={value}" for name, value in variables.items()),
            *command,
        ]  # fmt: skip

    def environment(self, user: str = "root") -> dict[str, str]:
        """What a login gives a user."""
        home = self.home(user)
        found = {"PATH": GUEST_PATH, "HOME": str(home), "USER": user, "LOGNAME": user,
                 "SHELL": "/bin/sh", "LANG": "C.UTF-8"}  # fmt: skip
        if user != "root":
            runtime = f"/run/user/{self.uid(user)}"
            bus = f"unix:path={runtime}/bus"
            found |= {"XDG_RUNTIME_DIR": runtime, "DBUS_SESSION_BUS_ADDRESS": bus}
        return found

    def run(
        self,
        *command: str,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        check: bool = True,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside. With ``check`` it must succeed."""
        done = subprocess.run(
            self.command(*command, user=user, env=env),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
        )
        if check and done.returncode:
            said = f"{' '.join(command)} exited {done.returncode}: {done.stdout}{done.stderr}"
            raise AssertionError(f"{said}\n{self.console()}" if not self.alive() else said)
        return done

    def add_user(self, user: str) -> None:
        """An ordinary user, who lingers: the own service manager runs without a login."""
        if self.run("id", user, check=False).returncode:
            self.run("useradd", "--create-home", "--shell", "/bin/sh", user)
        self.run("loginctl", "enable-linger", user)
        bus = self.path(f"/run/user/{self.uid(user)}/bus")
        wait_for(f"{user}'s own systemd", bus.exists)

    def alive(self) -> bool:
        """Whether the guest runs."""
        return self._keeper.poll() is None

    def uid(self, user: str) -> int:
        """A user's number."""
        return int(self._account(user)[2])

    def home(self, user: str) -> Path:
        """A user's home."""
        return Path("/root") if user == "root" else Path(self._account(user)[5])

    def _account(self, user: str) -> list[str]:
        lines = self.path("/etc/passwd").read_text().splitlines()
        return next(line.split(":") for line in lines if line.startswith(f"{user}:"))

    def host_pid(self, pid: int) -> int:
        """The number that a process of the guest has here."""
        namespace = os.readlink(f"/proc/{self.leader}/ns/pid")
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                if os.readlink(status.with_name("ns") / "pid") != namespace:
                    continue
                lines = status.read_text().splitlines()
            except OSError:
                continue
            numbers = next(line.split()[1:] for line in lines if line.startswith("NSpid:"))
            if int(numbers[-1]) == pid:
                return int(numbers[0])
        raise AssertionError(f"the guest has no process {pid}")

    def _find_leader(self) -> int | None:
        self._refuse_dead()
        for nspawn in _children(self._keeper.pid):
            for child in _children(nspawn):
                if _comm(child) == "systemd":
                    return child
        return None

    def _takes_orders(self) -> bool:
        self._refuse_dead()
        if not self.path("/run/systemd/private").exists():
            return False
        asked = self.command("systemctl", "is-active", "--quiet", boot.UNIT)
        return subprocess.run(asked, capture_output=True).returncode == 0

    def _refuse_dead(self) -> None:
        if not self.alive():
            raise AssertionError(
                f"the guest ended with {self._keeper.returncode}:\n{self.console()}"
            )


def _children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@contextmanager
def booted(folder: Path, binds: Mapping[Path, Path]) -> Iterator[Machine]:
    """A machine in which there is a user ``alice``; gone after, whatever happened.

    It needs an empty folder. ``binds`` are folders of the host and where the guest
    has them.
    """
    name = f"{cgroups.PREFIX}{os.getpid()}-{next(_numbers)}"
    cgroups.remove_forgotten()
    groups = cgroups.make(name)
    console = folder / "console.txt"
    base = folder / "base"
    base.mkdir()
    seen = {str(source): str(target) for source, target in {**_base(), **binds}.items()}
    plan = boot.Plan(name, str(base), [str(group) for group in groups], seen, _libraries())
    keeper = None
    try:
        keeper = _keeper(plan, console)
        machine = Machine(name, keeper, console)
        _furnish(machine)
        yield machine
    finally:
        if keeper is not None:
            keeper.kill()
            keeper.wait()
        cgroups.remove(name)


def _keeper(plan: boot.Plan, console: Path) -> subprocess.Popen[bytes]:
    """The process with which the machine ends, and which ends with this one."""
    with console.open("wb") as output:
        return subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL", "--"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
                *(sys.executable, str(boot.PATH), json.dumps(asdict(plan))),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def _base() -> dict[Path, Path]:
    """The interpreter under test. One in somebody's home is brought out of it: an
    ordinary user cannot read root's, and a hardened unit sees none."""
    return {} if _is_debians() else {Path(sys.base_prefix): GUEST_BASE}


def _libraries() -> str:
    return "" if _is_debians() else str(GUEST_BASE / "lib")


def _is_debians() -> bool:
    return Path(sys.base_prefix) == Path("/usr")


def python() -> str:
    """The interpreter under test, inside."""
    version = sysconfig.get_python_version()
    return f"/usr/bin/python{version}" if _is_debians() else f"{GUEST_BASE}/bin/python{version}"


def _furnish(machine: Machine) -> None:
    machine.run("ldconfig")
    machine.add_user(USER)
    version = (python(), "-c", "import sys; print(sys.version)")
    said = machine.run(*version, user=USER).stdout.strip()
    assert said == sys.version.strip(), f"the guest has another Python: {said}"


__all__ = ["USER", "Machine", "booted", "cannot_boot", "python"]
