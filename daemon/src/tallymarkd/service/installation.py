"""Which ``tallymarkd`` a service is to start, and whether it will stay there."""

from __future__ import annotations

import json
import os
import stat
import sys
import sysconfig
from collections.abc import Mapping, Sequence
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

TMP_IS_ITS_OWN = "which the service has for itself alone"

LINKS_MAX = 40
"""As many as Linux follows."""

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


def check_for_sandbox(installed: Installation, places: Mapping[str, Path]) -> None:
    """Raises ``PathError`` for what a user's service, which has its own /tmp, cannot see.
    ``places`` are directories of its own, by what they are."""
    for what, paths in _executed(installed).items():
        _refuse_below(paths, OWN_TO_A_SERVICE, what, TMP_IS_ITS_OWN)
    for what, path in places.items():
        _refuse_below(_ways(path), OWN_TO_A_SERVICE, what, TMP_IS_ITS_OWN)


def check_for_system(installed: Installation) -> None:
    """Raises ``PathError`` where the system's service could not run the daemon."""
    for what, paths in _executed(installed).items():
        _refuse_below(paths, OWN_TO_A_SERVICE, what, TMP_IS_ITS_OWN)
        _refuse_below(paths, HIDDEN_FROM_THE_SYSTEM, what, "which the system's service cannot see")
        _refuse_closed(paths, what)


def _executed(installed: Installation) -> dict[str, list[Path]]:
    """What is executed, the one by the other, and all paths on the way to it: a venv's
    interpreter is a link, and uv, pyenv and pipx have the real one in a home."""
    return {
        COMMAND: _ways(installed.daemon),
        f"the interpreter of {COMMAND}": _ways(installed.python),
    }


def _ways(path: Path) -> list[Path]:
    """A path, what it links to, link by link, and where it really is."""
    found = [Path(os.path.normpath(path))]
    while found[-1].is_symlink() and len(found) <= LINKS_MAX:
        link = found[-1]
        found.append(Path(os.path.normpath(link.parent / link.readlink())))
    return list(dict.fromkeys([*found, Path(os.path.realpath(path))]))


def mode(path: Path) -> int:
    """The permissions of what a path leads to."""
    return path.stat().st_mode


def _refuse_closed(ways: Sequence[Path], what: str) -> None:
    executed = ways[-1]
    for path in (executed, *(parent for way in ways for parent in way.parents)):
        needed = stat.S_IXOTH | (stat.S_IROTH if path == executed else 0)
        if mode(path) & needed != needed:
            raise PathError(
                f"cannot run {what} {executed} as the user tallymark: {path} is not open to "
                "others; install tallymark, and the Python that it uses, where all can read "
                "it, in /opt for example"
            )


def _refuse_below(paths: Sequence[Path], folders: Sequence[str], what: str, why: str) -> None:
    for path in paths:
        for folder in folders:
            if path.is_relative_to(folder):
                raise PathError(
                    f"cannot have {what} in {path}: it is below {folder}, {why}; choose another "
                    "place, and for an interpreter one that is installed for everybody"
                )
