"""What the log says to a person when the daemon is ready: what to type, and how agents find it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from tallymark import paths
from tallymarkd.setting import PREFIX


def next_steps(socket: Path, env: Mapping[str, str]) -> list[str]:
    """Lines for the log, for who started the daemon in this directory."""
    bare = {name: value for name, value in env.items() if not name.startswith(PREFIX)}
    usual = paths.socket_candidates(None, bare)
    said = [f"to see what is recorded: {_command(socket, usual[0])}"]
    if socket not in usual:
        # Our own variables may say where it is; an agent's terminal has others.
        said.append(f"agents find it with {paths.SOCKET_VARIABLE}={shlex.quote(str(socket))}")
    return said


def _command(socket: Path, usual: Path) -> str:
    command = Path(sys.executable).with_name("tallymark")
    here = Path.cwd()
    near = here != here.parent and command.is_relative_to(here)
    shown = command.relative_to(here) if near else command
    words = [str(shown) if command.exists() else "tallymark"]
    if socket != usual:
        words += ["--socket", str(socket)]
    return shlex.join(words)
