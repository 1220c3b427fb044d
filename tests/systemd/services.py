"""``tallymarkd`` as a service of a guest: of the system, or of a user."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.daemon import DEADLINE_SECONDS, wait_for
from tests.stored_ids import ids_in_journal
from tests.systemd.installed import CODE
from tests.systemd.machine import USER, Machine

SERVICE = "tallymarkd.service"
SOCKET = "tallymarkd.socket"

LINES_MAX = 25


class Service:
    """One kind of it. Whoever speaks to it is ``alice``, in either kind."""

    def __init__(self, machine: Machine, system: bool, commands: Path) -> None:
        self.machine = machine
        self.system = system
        self.commands = commands
        home = machine.home(USER)
        self.state_dir = Path("/var/lib/tallymark") if system else home / ".local/state/tallymark"
        self.socket = (
            Path("/run/tallymark/tallymark.sock") if system
            else self.state_dir / "run/tallymark.sock"
        )  # fmt: skip
        self._drop_ins = (
            Path("/run/systemd/system") if system else home / ".config/systemd/user"
        ) / f"{SERVICE}.d"
        self.settings = (
            Path("/etc") if system else home / ".config"
        ) / "tallymark/tallymarkd.toml"  # fmt: skip

    @property
    def owner(self) -> str:
        """Who gives orders to its manager."""
        return "root" if self.system else USER

    # Orders.

    def install(self) -> str:
        """Have ``tallymark service install`` do it; gives what that says."""
        said = self.tallymark("service", "install", *self._scope, user=self.owner).stdout
        if self.system:
            self.machine.run("usermod", "--append", "--groups", "tallymark", USER)
        return said

    def uninstall(self) -> str:
        """Have ``tallymark service uninstall`` do it; gives what that says."""
        return self.tallymark("service", "uninstall", *self._scope, user=self.owner).stdout

    def status(self) -> subprocess.CompletedProcess[str]:
        """What ``tallymark service status`` says."""
        return self.tallymark("service", "status", *self._scope, user=self.owner, check=False)

    @property
    def _scope(self) -> tuple[str, ...]:
        return ("--system",) if self.system else ()

    def tallymark(
        self, *arguments: str, user: str = USER, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line; gives the ended process."""
        return self.machine.run(
            str(self.commands / "tallymark"), *arguments, user=user, check=check
        )

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Give an order to its manager; gives what that says."""
        scope = () if self.system else ("--user",)
        done = self.machine.run("systemctl", *scope, *arguments, user=self.owner, check=False)
        if check and done.returncode:
            raise AssertionError(
                f"systemctl {' '.join(arguments)}: {done.stdout}{done.stderr}\n{self.last_words()}"
            )
        return str(done.stdout)

    def afresh(self) -> None:
        """Listening, not running, and with an empty state."""
        self.systemctl("stop", SOCKET, SERVICE)
        self.systemctl("reset-failed", SOCKET, SERVICE)
        state = str(self.state_dir)
        self.machine.run("find", f"{state}/", "-mindepth", "1", "-delete", check=False)
        self.systemctl("start", SOCKET)

    @contextmanager
    def changed(self, *lines: str) -> Iterator[None]:
        """With such lines in the service's section, as ``systemctl edit`` would add them."""
        path = self._drop_ins / "tested.conf"
        self.write(path, "\n".join(("[Service]", *lines, "")))
        self.systemctl("daemon-reload")
        try:
            yield
        finally:
            self.machine.path(path).unlink()
            self.machine.path(self._drop_ins).rmdir()
            self.systemctl("daemon-reload")

    @contextmanager
    def configured(self, text: str) -> Iterator[None]:
        """With this text as its settings, as its owner writes them."""
        self.write(self.settings, text)
        try:
            yield
        finally:
            file = self.machine.path(self.settings)
            file.unlink()
            file.parent.rmdir()

    def write(self, path: Path, text: str) -> None:
        """Write a file of the service's owner."""
        self.machine.run("mkdir", "-p", str(path.parent), user=self.owner)
        self.machine.run("tee", str(path), user=self.owner, stdin=text)

    # Looks.

    def show(self, name: str, unit: str = SERVICE) -> str:
        """A property of the unit."""
        return self.systemctl("show", "--property", name, "--value", unit).strip()

    def active(self, unit: str = SERVICE) -> str:
        """Its state in one word: ``active``, ``inactive``, ``failed`` …"""
        return self.systemctl("is-active", unit, check=False).strip()

    def pid(self) -> int:
        """The daemon's process, as this host counts; waits for one."""
        inside = wait_for("a main process", lambda: int(self.show("MainPID")))
        return self.machine.host_pid(inside)

    def restarts(self) -> int:
        """How often systemd has started it again by itself."""
        return int(self.show("NRestarts"))

    def until(
        self, what: str, look: Callable[[], object], seconds: float = DEADLINE_SECONDS
    ) -> None:
        """Wait for something; what the unit has said is told if it does not come."""
        try:
            wait_for(what, look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.last_words()}") from None

    def journal(self, *options: str) -> str:
        """What the daemon, and its manager about it, have said."""
        matches = (
            ("--unit", SERVICE) if self.system
            else (f"_SYSTEMD_USER_UNIT={SERVICE}", "+", f"USER_UNIT={SERVICE}")
        )  # fmt: skip
        return self.machine.run(
            "journalctl", "--no-pager", "--output=cat", *options, *matches
        ).stdout

    def last_words(self) -> str:
        """The end of it, for a message."""
        return self.journal(f"--lines={LINES_MAX}")

    @contextmanager
    def listening(self) -> Iterator[Callable[[], str]]:
        """Gives what gives what has been said since."""
        shown = self.journal("--lines=0", "--show-cursor")
        cursor = shown.rpartition("-- cursor: ")[2].strip()
        yield lambda: self.journal(f"--after-cursor={cursor}" if cursor else "--boot")

    def health(self, user: str = USER) -> dict[str, Any]:
        """What the daemon says of itself to ``user``. Starts it, if nobody has."""
        environment = {**self.machine.environment(user), "PYTHONPATH": str(CODE)}
        asker = (str(self.commands / "python"), "-m", "tests.systemd.asker", str(self.socket))
        done = self.machine.run(*asker, user=user, env=environment, check=False)
        return self._decoded(done)

    # Judgement.

    def verify(self) -> dict[str, Any]:
        """What ``tallymark verify`` tells of its files, which must be whole. It is not running."""
        done = self.tallymark("verify", "--json", str(self.state_dir), user="root", check=False)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return self._decoded(done)

    def _decoded(self, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            said = f"no answer: {done.stdout}{done.stderr}\n{self.last_words()}"
            raise AssertionError(said) from None
        return found

    def hold(self, acknowledged: Iterable[str]) -> Counter[str]:
        """Hold the files of the daemon, which is not running, against acknowledgements:
        each of those is stored once, and nothing twice. Gives what is stored."""
        stored = Counter(ids_in_journal(self.machine.path(self.state_dir)))
        lost = [each for each in acknowledged if each not in stored]
        doubled = [each for each, times in stored.items() if times > 1]
        assert not lost, f"{len(lost)} acknowledged events are lost, {lost[0]} among them"
        assert not doubled, f"{len(doubled)} events are stored twice, {doubled[0]} among them"
        return stored


__all__ = ["SERVICE", "SOCKET", "Service"]
