"""A machine for tests of ``tallymark service``: a service manager that keeps no promises
but those it is told to keep, below a directory of the test's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tallymark.errors import ConnectError
from tallymark.protocol.messages import HealthReport
from tallymarkd._version import __version__
from tallymarkd.service.installation import Installation
from tallymarkd.service.machine import Machine, Ran
from tallymarkd.service.render import SERVICE, SOCKET


class FakeManager:
    """Answers ``systemctl``, ``loginctl`` and ``launchctl`` as if it were the real one.

    ``fails`` has the beginning of a command, and what it says when it fails.
    ``sandbox_status`` is how a service in the sandbox ends; that of a service that
    systemd could not give its namespaces to is 226. ``more`` has properties of units,
    ``environment`` the variables that it has for every service.
    """

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path
        self.home = tmp_path / "home"
        self.home.mkdir()
        (tmp_path / "run/systemd/system").mkdir(parents=True)
        self.fails: dict[str, Ran] = {}
        self.commands: list[str] = []
        self.state = {SOCKET: "inactive", SERVICE: "inactive"}
        self.result = {SOCKET: "success", SERVICE: "success"}
        self.more: dict[str, dict[str, str]] = {SOCKET: {}, SERVICE: {}}
        self.environment = {"HOME": str(self.home), "LANG": "C.UTF-8"}
        self.enabled = False
        self.lingers = "yes"
        self.sandbox_status = "0"
        self.unit_path = f"{self.home}/.config/systemd/user /usr/lib/systemd/user"
        self.loaded = False
        self.prints_left = 0
        self.asked: list[Path] = []
        self.answer: HealthReport | None = HealthReport(
            id=1, status="ok", report={"version": __version__, "pid": 4711}
        )

    @property
    def changes(self) -> list[str]:
        """The commands that do something."""
        looks = (
            "systemctl --user show",
            "systemctl show",
            "loginctl",
            "systemd-run",
            "systemctl --user reset-failed tallymark-tries",
            "launchctl p",
        )
        return [command for command in self.commands if not command.startswith(looks)]

    def run(self, command: Sequence[str]) -> Ran:
        line = " ".join(command)
        self.commands.append(line)
        for beginning, ran in self.fails.items():
            if line.startswith(beginning):
                return ran
        words = [word for word in command[1:] if word != "--user"]
        if command[0] == "systemctl":
            return self._systemctl(words)
        if command[0] == "launchctl":
            return self._launchctl(words)
        if command[0] == "systemd-run" and self.sandbox_status != "0":
            return Ran(1, err="Job failed\n")
        return Ran(0, out=f"{self.lingers}\n" if command[0] == "loginctl" else "")

    def _systemctl(self, words: list[str]) -> Ran:
        units = [word for word in words if word in self.state]
        if words[0] == "show-environment":
            return Ran(0, out="".join(f"{n}={v}\n" for n, v in self.environment.items()))
        if words[0] == "show" and "tries-its-sandbox" in words[-1]:
            return Ran(0, out=f"{self.sandbox_status}\n")
        if words[0] == "show":
            return Ran(0, out=self._show(units[0]) if units else f"UnitPath={self.unit_path}\n")
        if words[0] == "enable":
            self.enabled = True
            self.state[SOCKET] = "active"
        elif words[0] in ("disable", "stop"):
            self.enabled = self.enabled and words[0] == "stop"
            self.state.update(dict.fromkeys(units, "inactive"))
        return Ran(0)

    def _show(self, unit: str) -> str:
        enabled = "enabled" if self.enabled else "disabled"
        found = {
            "ActiveState": self.state[unit],
            "Result": self.result[unit],
            "UnitFileState": enabled if unit == SOCKET else "indirect",
            "NeedDaemonReload": "no",
            "InactiveExitTimestampMonotonic": f"{time.monotonic() * 1e6:.0f}",
            **self.more[unit],
        }
        return "".join(f"{name}={value}\n" for name, value in found.items())

    def _launchctl(self, words: list[str]) -> Ran:
        if words[0] == "print" and words[1].count("/") > 1:
            self.prints_left -= 1
            there = self.loaded or self.prints_left >= 0
            return Ran(0, out="job = {\n\tstate = running\n") if there else Ran(113, err="gone")
        if words[0] == "bootstrap":
            self.loaded = True
        elif words[0] == "bootout":
            self.loaded = False
        return Ran(0)

    def ask(self, socket: Path) -> HealthReport:
        self.asked.append(socket)
        if self.answer is None:
            raise ConnectError(f"cannot reach tallymarkd at {socket}: nobody is there")
        return self.answer

    def machine(self, *, platform: str = "linux", uid: int = 1000, **env: str) -> Machine:
        """What the commands are given."""
        return Machine(
            platform=platform,
            uid=uid,
            user="alice",
            env={"HOME": str(self.home), **env},
            run=self.run,
            ask=self.ask,
            sleep=lambda _: None,
            root=self.root,
        )


def installation(folder: Path) -> Installation:
    """A daemon that anybody can execute."""
    daemon = folder / "tallymarkd"
    daemon.write_text("#!/bin/sh\n")
    daemon.chmod(0o755)
    return Installation(daemon, folder / "python")


class Told:
    """Takes what a command tells."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, word: str, what: str) -> None:
        self.lines.append((word, what))

    def of(self, word: str) -> list[Any]:
        """What was told with this word."""
        return [what for each, what in self.lines if each == word]
