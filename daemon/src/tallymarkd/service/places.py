"""Where a user's service keeps what it has: as every client of that user computes it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tallymark import paths
from tallymarkd.config import CONFIG_VARIABLE, SETTINGS
from tallymarkd.service.machine import Machine

TAKEN = {"TALLYMARK_STATE_DIR", "TALLYMARK_SPOOL_DIR"}
"""Variables whose values go into the units."""


@dataclass(frozen=True)
class Places:
    """Paths, and what of the environment does not reach the service."""

    state_dir: Path
    spool_dir: Path
    socket: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def system_places() -> Places:
    """Those of the system's service: the same on every machine."""
    state = paths.SYSTEM_STATE_DIR
    return Places(state, state / "spool", paths.SYSTEM_SOCKET)


def user_places(machine: Machine, state_dir: Path | None = None) -> Places:
    """Those of this user. ``state_dir`` goes before TALLYMARK_STATE_DIR.

    Raises ``PathError`` when the socket's path would be too long.
    """
    env = machine.env
    usual = paths.state_dir(env, machine.platform)
    given = state_dir or env.get("TALLYMARK_STATE_DIR") or usual
    state = Path(os.path.normpath(Path(given).expanduser().absolute()))
    spool = Path(env.get("TALLYMARK_SPOOL_DIR") or usual / "spool").expanduser().absolute()
    socket = paths.check_socket_path(paths.socket_path(state))
    config_home = env.get("XDG_CONFIG_HOME", "")
    own = config_home.startswith("/") and Path(config_home) != machine.home / ".config"
    environment = {"XDG_CONFIG_HOME": config_home} if own else {}
    return Places(state, spool, socket, environment, _notes(machine, state, socket))


def _notes(machine: Machine, state: Path, socket: Path) -> list[str]:
    env, said = machine.env, []
    bare = paths.state_dir({"HOME": str(machine.home)}, machine.platform)
    pointed = env.get(paths.SOCKET_VARIABLE)
    if pointed and Path(pointed) != socket:
        said.append(
            f"TALLYMARK_SOCKET={pointed} leads clients elsewhere: the service listens on {socket}"
        )
    elif state != bare:
        said.append(
            "what does not have your environment, cron for example, looks for tallymarkd in "
            f"{bare}: give it TALLYMARK_SOCKET={socket}"
        )
    known = {setting.variable for setting in SETTINGS} | {CONFIG_VARIABLE}
    left = sorted((known - TAKEN - {paths.SOCKET_VARIABLE}) & {k for k, v in env.items() if v})
    if left:
        config = Path(env.get("XDG_CONFIG_HOME") or machine.home / ".config")
        said.append(
            f"{', '.join(left)}: the service does not have it; settings of its own go into "
            f"{config / 'tallymark' / 'tallymarkd.toml'}"
        )
    return said
