"""How the daemon is stopped that keeps a command from a state directory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tallymark.errors import DeliveryError, StorageError
from tallymarkd.cli.asking import HEALTH_TIMEOUT_SECONDS, ask_health
from tallymarkd.cli.place import Place
from tallymarkd.core.refusals import RunningError
from tallymarkd.service.plist import LABEL
from tallymarkd.service.render import SERVICE, SOCKET

PROC = Path("/proc")


@contextlib.contextmanager
def telling_how_to_stop(place: Place, instead: str = "") -> Iterator[None]:
    """A refusal on account of a running daemon says how to stop that one, and what else
    could be done ``instead``."""
    try:
        yield
    except RunningError as error:
        told = _told_how_to_stop(place, error)
        raise StorageError(f"{told}; {instead}" if instead else told) from None


def _told_how_to_stop(place: Place, error: RunningError) -> str:
    """The same refusal, with the line that stops the daemon that runs there, if it answers."""
    pid = _pid_of(place, error.root)
    if pid is None:
        return str(error)
    line = stop_line(pid)
    return f"{error.refused}: tallymarkd runs on it (pid {pid}); stop it first: `{line}`"


def _pid_of(place: Place, root: Path) -> int | None:
    """The pid of the daemon that keeps its state there; None for one that does not say."""
    for each in (replace(place, state_dir=str(root), socket=None), place):
        try:
            report = ask_health(each, timeout_seconds=HEALTH_TIMEOUT_SECONDS).report
        except (DeliveryError, ValueError):
            continue
        pid = report.get("pid")
        if isinstance(pid, int) and _is_same(report.get("state_dir"), root):
            return pid
    return None


def _is_same(state_dir: object, root: Path) -> bool:
    return isinstance(state_dir, str) and Path(state_dir).resolve() == root.resolve()


def stop_line(pid: int, proc: Path = PROC, platform: str = sys.platform) -> str:
    """What a person types to stop this process for good. Who holds the socket of a service
    would start it again, so there it is the socket that is stopped."""
    try:
        groups = (proc / str(pid) / "cgroup").read_text()
    except OSError:
        groups = ""
    if f"/{SERVICE}" in groups:
        scope = "--user " if "/user.slice/" in groups else ""
        return f"systemctl {scope}stop {SOCKET}"
    if platform == "darwin" and _is_of_launchd(pid):
        return f"launchctl bootout gui/$(id -u)/{LABEL}"
    return f"kill {pid}"


def _is_of_launchd(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).ppid() == 1
    except psutil.Error:
        return False
