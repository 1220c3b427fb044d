"""``tallymark service status``: is it installed, as it should be, and alive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tallymark.errors import DeliveryError
from tallymark.fs import FileSystem
from tallymarkd._version import __version__
from tallymarkd.service import unit_files
from tallymarkd.service.machine import Machine
from tallymarkd.service.managers import Condition, Manager

EXIT_OK = 0
EXIT_PROBLEMS = 1
EXIT_NOT_INSTALLED = 2

FILE_PROBLEMS = {
    "missing": "{path} is missing: {install}",
    "differs": "{path} is not what this tallymark would write: {install}",
    "foreign": "{path} is not from `tallymark service install`",
}


@dataclass
class Status:
    """What was found. ``daemon`` is the health report's part, None when it does not run."""

    kind: str
    installed: bool
    files: dict[str, str]
    condition: Condition
    socket: str
    state_dir: str
    daemon: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 all is well, 1 something is not, 2 it is not installed."""
        if not self.installed:
            return EXIT_NOT_INSTALLED
        return EXIT_PROBLEMS if self.problems else EXIT_OK


def look(machine: Machine, fs: FileSystem, manager: Manager) -> Status:
    """Look at the service; starts and changes nothing. Raises ``ServiceError``."""
    manager.check()
    files = {
        str(path): unit_files.look(fs, path, text)
        for path, text in manager.installed_files().items()
    }
    status = Status(
        kind=manager.kind,
        installed=bool({"current", "differs"} & set(files.values())),
        files=dict(files),
        condition=manager.condition(),
        socket=str(manager.socket()),
        state_dir=str(manager.state_dir()),
    )
    for path, how in files.items():
        if how in FILE_PROBLEMS and (status.installed or how == "foreign"):
            status.problems.append(FILE_PROBLEMS[how].format(path=path, install=manager.again))
    if status.installed:
        _look_at_service(machine, manager, status)
    return status


def _look_at_service(machine: Machine, manager: Manager, status: Status) -> None:
    found, lines = status.condition, manager.lines()
    if found.failed:
        status.problems.append(
            f"it has failed ({found.failed}): {lines.log} tells why; after that {manager.again}"
        )
    if found.looping:
        status.problems.append(f"it does not stay up ({found.looping}): {lines.log} tells why")
    for name in found.behind:
        status.problems.append(f"{name} has changed since it was taken over: {manager.again}")
    if not found.listening:
        status.problems.append(f"it is stopped: {lines.start}")
    if not found.enabled:
        status.problems.append(f"it does not start by itself after a boot: {manager.again}")
    # One that does not stay up would have the question wait for nothing.
    if not found.running or found.looping:
        return
    try:
        answer = machine.ask(manager.socket())
    except DeliveryError as error:
        early = "it is still starting, and reads its journal: " if found.starting else ""
        status.problems.append(f"{early}{error}; see {lines.log}")
        return
    report = answer.report
    status.daemon = {"status": answer.status, "reasons": answer.reasons, **report}
    if answer.status != "ok":
        status.problems.append(f"health is {answer.status}: tallymark health says why")
    version = report.get("version", __version__)
    if version != __version__:
        status.problems.append(
            f"tallymarkd {version} runs, and {__version__} is installed: {lines.restart}"
        )
