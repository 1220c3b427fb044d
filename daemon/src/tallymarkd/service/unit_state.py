"""What systemd's properties of both units tell of the service."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tallymarkd.service.managers import Condition
from tallymarkd.service.render import SERVICE, SOCKET

PROPERTIES: Final = (
    "ActiveState",
    "SubState",
    "Result",
    "UnitFileState",
    "NeedDaemonReload",
    "InactiveExitTimestampMonotonic",
)
OF_A_SERVICE: Final = ("ExecMainCode", "ExecMainStatus", "NRestarts")

KILLED: Final = ("2", "3")
"""ExecMainCode (waitid(2)) of a process that a signal ended."""

ESCAPES: Final = {"n": "\n", "t": "\t"}

Properties = Mapping[str, str]


def condition(socket: Properties, service: Properties, paths: Sequence[Path]) -> Condition:
    """How the service is; ``paths`` are those of its files."""
    units = {SOCKET: socket, SERVICE: service}
    failed = [
        f"{name}: {found.get('Result')}"
        for name, found in units.items()
        if found.get("ActiveState") == "failed"
    ]
    looping = _looping(service)
    return Condition(
        listening=socket.get("ActiveState") == "active",
        running=service.get("ActiveState") in ("active", "reloading", "activating"),
        enabled=socket.get("UnitFileState") == "enabled",
        failed=", ".join(failed),
        looping=looping,
        starting=service.get("ActiveState") == "activating" and not looping,
        behind=tuple(path.name for path in paths if _is_behind(path, units.get(path.name, {}))),
    )


def _looping(service: Properties) -> str:
    """How it ended, and ends again and again; empty when it does not."""
    state, sub = service.get("ActiveState"), service.get("SubState", "")
    ended = state == "deactivating" and service.get("Result", "success") != "success"
    if sub.startswith("auto-restart") or ended:
        status = service.get("ExecMainStatus", "")
        by = "signal" if service.get("ExecMainCode") in KILLED else "exit code"
        return f"{service.get('Result')}, {by} {status}"
    restarts = service.get("NRestarts", "0")
    if state == "activating" and restarts not in ("", "0"):
        return f"started again {restarts} times"
    return ""


def _is_behind(path: Path, found: Properties) -> bool:
    """Whether systemd, or what runs, has not seen the unit as its file is."""
    if found.get("NeedDaemonReload") == "yes":
        return True
    started = found.get("InactiveExitTimestampMonotonic", "")
    if found.get("ActiveState") not in ("active", "reloading", "activating") or not started:
        return False
    try:
        written = path.stat().st_mtime
    except OSError:
        return False
    # In this order: what is between the two must not make the unit look older.
    since_start = time.monotonic() - int(started) / 1e6
    since_written = time.time() - written
    return 0 <= since_written < since_start


def unquoted(value: str) -> str:
    """A variable's value, as ``systemctl show-environment`` prints it."""
    if not (value.startswith("$'") and value.endswith("'")):
        return value
    return re.sub(r"\\(.)", lambda found: ESCAPES.get(found[1], found[1]), value[2:-1])


__all__ = ["OF_A_SERVICE", "PROPERTIES", "condition", "unquoted"]
