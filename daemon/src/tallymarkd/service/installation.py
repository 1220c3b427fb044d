"""Which ``tallymarkd`` a service is to start, and whether it will stay there."""

from __future__ import annotations

import json
import os
import stat
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tallymark.errors import PathError
from tallymarkd.service.machine import ServiceError

COMMAND = "tallymarkd"

PASSING = {
    "/uv/archive-v": "uvx",
    "/uv/environments-v": "uvx",
    "/uv/builds-v": "uvx",
    "/pipx/.cache/": "pipx run",
    "/.cache/pipx/": "pipx run",
}
"""What a path has that lasts only as long as somebody's cache, and whose it is."""

OWN_TO_A_SERVICE = ("/tmp", "/var/tmp")  # noqa: S108 - where nothing may be
"""A sandboxed service has these for itself, and sees nothing of the others'."""

HIDDEN_FROM_THE_SYSTEM = ("/home", "/root", "/run/user")


@dataclass(frozen=True)
class Installation:
    """The daemon's command, and the interpreter that it runs in."""

    daemon: Path
    python: Path
    notes: Sequence[str] = ()


def this_installation() -> Installation:
    """The one that this process runs from. Raises ``ServiceError``."""
    daemon = find_daemon(
        [Path(sys.executable).parent, Path(sys.argv[0]).absolute().parent, *_script_dirs()]
    )
    return Installation(daemon, Path(sys.executable), notes(daemon, _editable_from()))


def _script_dirs() -> list[Path]:
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    return [Path(sysconfig.get_path("scripts", scheme)) for scheme in schemes]


def find_daemon(folders: Sequence[Path]) -> Path:
    """The first ``tallymarkd`` that can be executed. Links are not followed: what they
    lead to may have the version in its name. Raises ``ServiceError``."""
    for folder in folders:
        if os.access(folder / COMMAND, os.X_OK):
            return folder / COMMAND
    raise ServiceError(
        f"cannot install the service: there is no {COMMAND} in "
        f"{' or '.join(dict.fromkeys(map(str, folders)))}; install the distribution tallymark "
        "with pip, pipx or uv tool, and use its own tallymark command"
    )


def _editable_from() -> str:
    """The source that an editable installation uses, else empty."""
    try:
        raw = metadata.distribution("tallymark").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return ""
    about = json.loads(raw) if raw else {}
    if not about.get("dir_info", {}).get("editable"):
        return ""
    return str(about.get("url", "")).removeprefix("file://")


def notes(daemon: Path, editable_from: str) -> list[str]:
    """What a person should know of an installation that may not last."""
    said: list[str] = []
    for part, whose in PASSING.items():
        if part in str(daemon) and not said:
            said.append(
                f"{daemon} is in the cache of {whose}, and goes when that is cleaned: install "
                "with `uv tool install tallymark` or `pipx install tallymark` instead"
            )
    if editable_from:
        said.append(
            f"this is an editable installation: the service runs what stands in {editable_from}"
        )
    return said


def check_for_sandbox(path: Path, what: str) -> None:
    """Raises ``PathError`` for what a service that has its own /tmp cannot see."""
    _refuse_below(path, OWN_TO_A_SERVICE, what, "which the service has for itself alone")


def check_for_system(daemon: Path) -> None:
    """Raises ``PathError`` where the system's service could not run the daemon."""
    _refuse_below(daemon, HIDDEN_FROM_THE_SYSTEM, COMMAND, "which the system's service cannot see")
    for path in (daemon, *daemon.parents):
        needed = stat.S_IXOTH | (stat.S_IROTH if path == daemon else 0)
        if path.stat().st_mode & needed != needed:
            raise PathError(
                f"cannot run {daemon} as the user tallymark: {path} is not open to others; "
                "install tallymark where all can read it, in /opt for example"
            )


def _refuse_below(path: Path, folders: Sequence[str], what: str, why: str) -> None:
    for folder in folders:
        if os.path.realpath(path).startswith(f"{folder}/"):
            raise PathError(
                f"cannot have {what} in {path}: it is below {folder}, {why}; choose another place"
            )
