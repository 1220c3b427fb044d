"""launchd as the manager, for one user of macOS."""

from __future__ import annotations

import plistlib
import shlex
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from xml.parsers.expat import ExpatError

from tallymark.fs import FileSystem
from tallymarkd.service import plist, unit_files
from tallymarkd.service.installation import Installation
from tallymarkd.service.machine import Machine, ServiceError
from tallymarkd.service.managers import Condition, Lines, OnMachine, Step
from tallymarkd.service.places import Places


class Launchd(OnMachine):
    """The user's own domain, that of the graphical session."""

    kind = "launchd"
    directory_mode = 0o755
    again = "tallymark service install"

    def __init__(
        self, machine: Machine, fs: FileSystem, installed: Installation, places: Places
    ) -> None:
        super().__init__(machine, fs, installed, places)
        self._domain = f"gui/{machine.uid}"
        self._job = f"{self._domain}/{plist.LABEL}"

    def check(self) -> None:
        done = self._machine.run(("launchctl", "print", self._domain))
        if done.code:
            raise ServiceError(
                f"cannot reach launchd for {self._machine.user}: {done.cause}; log in on the "
                "screen of this Mac, and try again"
            )

    def _file(self) -> Path:
        return self._machine.home / "Library" / "LaunchAgents" / plist.FILE_NAME

    def _log_dir(self) -> Path:
        return self._machine.home / "Library" / "Logs" / "tallymark"

    def paths(self) -> Sequence[Path]:
        return [self._file()]

    def files(self) -> Mapping[Path, str]:
        job = plist.launch_agent(
            daemon=self._installed.daemon,
            state_dir=self._places.state_dir,
            spool_dir=self._places.spool_dir,
            socket=self._places.socket,
            log_dir=self._log_dir(),
            environment=self._places.environment,
        )
        return {self._file(): plist.to_text(job)}

    def installed_files(self) -> Mapping[Path, str]:
        """As ``files``."""
        return self.files()

    def usual_files(self) -> Mapping[Path, str]:
        """As ``files``."""
        return self.files()

    def socket(self) -> Path:
        text = unit_files.read(self._fs, self._file()) or ""
        try:
            job = plistlib.loads(text.encode())
            return Path(job["Sockets"][plist.SOCKET_KEY]["SockPathName"])
        except (ExpatError, plistlib.InvalidFileException, ValueError, KeyError, TypeError):
            return self._places.socket

    def state_dir(self) -> Path:
        return self.socket().parent.parent

    def condition(self) -> Condition:
        done = self._machine.run(("launchctl", "print", self._job))
        loaded = done.code == 0
        # The first of its lines at this depth; launchctl's output is for people.
        running = "\n\tstate = running" in done.out
        return Condition(listening=loaded, running=running, enabled=loaded)

    def after_writing(self, changed: AbstractSet[Path], before: Condition) -> list[Step]:
        # launchd makes no directory for what it opens.
        steps = [
            Step(("mkdir", "-p", "-m", "700", str(folder)))
            for folder in (self._log_dir(), self._places.socket.parent)
        ]
        if before.listening and not changed:
            return steps
        if before.listening:
            steps += self.before_removing()
        return [
            *steps,
            Step(("launchctl", "enable", self._job)),
            Step(("launchctl", "bootstrap", self._domain, str(self._file()))),
        ]

    def before_removing(self) -> list[Step]:
        # bootout returns before the job has ended, and bootstrap fails until it has.
        return [
            Step(("launchctl", "bootout", self._job), may_fail=True),
            Step(("launchctl", "print", self._job), until_it_fails=True),
        ]

    def after_removing(self) -> list[Step]:
        return []

    def lines(self) -> Lines:
        log = shlex.quote(str(self._log_dir() / plist.LOG_NAME))
        return Lines(
            start=f"launchctl bootstrap {self._domain} {shlex.quote(str(self._file()))}",
            stop=f"launchctl bootout {self._job}",
            restart=f"launchctl kickstart -k {self._job}",
            log=f"tail -F {log}",
        )

    def notes(self) -> list[str]:
        return []
