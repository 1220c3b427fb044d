"""Where a user's service keeps what it has: as every client of that user computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tallymark import paths
from tallymarkd.config import CONFIG_VARIABLE, SETTINGS
from tallymarkd.service.machine import Machine

TAKEN = {paths.STATE_DIR_VARIABLE, paths.SPOOL_DIR_VARIABLE}
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
    state = paths.absolute(state_dir or paths.said_state_dir(env) or usual)
    spool = Path(env.get(paths.SPOOL_DIR_VARIABLE) or usual / "spool").expanduser().absolute()
    socket = paths.check_socket_path(paths.socket_path(state))
    config_home = env.get("XDG_CONFIG_HOME", "")
    own = config_home.startswith("/") and Path(config_home) != machine.home / ".config"
    environment = {"XDG_CONFIG_HOME": config_home} if own else {}
    return Places(state, spool, socket, environment, _notes(machine, state, socket))


def _notes(machine: Machine, state: Path, socket: Path) -> list[str]:
    env, said = machine.env, []
    lost = _who_does_not_find_it(machine, state, socket)
    if lost:
        said.append(lost)
    known = {setting.variable for setting in SETTINGS} | {CONFIG_VARIABLE}
    left = sorted((known - TAKEN - {paths.SOCKET_VARIABLE}) & {k for k, v in env.items() if v})
    if left:
        config = Path(env.get("XDG_CONFIG_HOME") or machine.home / ".config")
        said.append(
            f"{', '.join(left)}: the service does not have it; settings of its own go into "
            f"{config / 'tallymark' / 'tallymarkd.toml'}"
        )
    return said


def _who_does_not_find_it(machine: Machine, state: Path, socket: Path) -> str:
    """Where clients do not look for the service's socket by themselves; else empty."""
    env = machine.env
    pointed = env.get(paths.SOCKET_VARIABLE)
    if pointed and paths.absolute(pointed) != socket:
        return (
            f"TALLYMARK_SOCKET={pointed} leads clients elsewhere: the service listens on {socket}"
        )
    looked = paths.said_state_dir(env) or paths.state_dir(env, machine.platform)
    if not pointed and looked != state:
        return f"clients look for tallymarkd in {looked}: give them TALLYMARK_SOCKET={socket}"
    bare = paths.state_dir({"HOME": str(machine.home)}, machine.platform)
    if state != bare:
        return (
            "what does not have your environment, cron for example, looks for tallymarkd in "
            f"{bare}: give it TALLYMARK_SOCKET={socket}"
        )
    return ""
