"""The LaunchAgent for launchd (launchd.plist(5)).

launchd knows neither a watchdog nor readiness, and starts again whatever exits
non-zero, a wrong setting too: after ``ThrottleInterval``.
"""

from __future__ import annotations

import plistlib
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

from tallymark.errors import PathError
from tallymarkd.service.render import marker

_not_for_xml = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

LABEL: Final = "org.tallymark.tallymarkd"
FILE_NAME: Final = f"{LABEL}.plist"

SOCKET_KEY: Final = "tallymarkd"
"""Under ``Sockets``: the name by which the daemon asks for its socket."""

LOG_NAME: Final = "tallymarkd.log"


def launch_agent(
    *,
    daemon: PurePath,
    state_dir: PurePath,
    spool_dir: PurePath,
    socket: PurePath,
    log_dir: PurePath,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The job of one user. launchd expands neither ``~`` nor variables: paths are absolute.

    Raises ``PathError`` for one that no plist can hold.
    """
    for path in (daemon, state_dir, spool_dir, socket, log_dir, *(environment or {}).values()):
        _refuse_unwritable(str(path))
    log = str(log_dir / LOG_NAME)
    job: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": [
            *(str(daemon), "--launchd"),
            *("--state-dir", str(state_dir), "--spool-dir", str(spool_dir)),
        ],
        "Sockets": {
            SOCKET_KEY: {
                "SockType": "stream",
                "SockPassive": True,
                "SockPathName": str(socket),
                "SockPathMode": 0o600,
            }
        },
        # Also starts it at login, when there is no exit status yet.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 5,
        # The daemon drains in 5 s (drain_timeout_seconds).
        "ExitTimeOut": 15,
        # Background, the default of some systems, would slow its disk down.
        "ProcessType": "Standard",
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": 4096, "Core": 0},
        "HardResourceLimits": {"Core": 0},
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    if environment:
        job["EnvironmentVariables"] = dict(environment)
    return job


def _refuse_unwritable(text: str) -> None:
    if _not_for_xml.search(text):
        raise PathError(
            f"cannot write {text!r} into a LaunchAgent: it has characters that a plist does not "
            "take; choose another path"
        )


def to_text(job: Mapping[str, Any]) -> str:
    """The file's text, with our mark in it."""
    text = plistlib.dumps(job, sort_keys=False).decode()
    head, tag, rest = text.partition("<plist ")
    return f"{head}<!-- {marker()} -->\n{tag}{rest}"
