"""What installing a service needs of the machine: who asks, and how commands are run."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tallymark.errors import TallymarkError
from tallymark.protocol.messages import HealthReport

COMMAND_SECONDS = 60.0
"""A stop waits for the daemon's drain, a start for nothing."""

NOT_FOUND = 127


class ServiceError(TallymarkError):
    """The service cannot be installed, removed or looked at; the message says why."""


@dataclass(frozen=True)
class Ran:
    """What a command left. ``code`` is 127 when there is no such command."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def cause(self) -> str:
        """Its last words, for a message."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].strip() if lines else f"exit code {self.code}"


Run = Callable[[Sequence[str]], Ran]

Ask = Callable[[Path], HealthReport]
"""Asks the daemon at a socket how it is; raises ``DeliveryError``."""


@dataclass(frozen=True)
class Machine:
    """Tests give their own; ``root`` is where its file system begins."""

    platform: str
    uid: int
    user: str
    env: Mapping[str, str]
    run: Run
    ask: Ask
    sleep: Callable[[float], None] = time.sleep
    root: Path = Path("/")

    @property
    def home(self) -> Path:
        """The user's home directory."""
        return Path(self.env["HOME"]) if self.env.get("HOME") else Path("~").expanduser()


def this_machine(env: Mapping[str, str], ask: Ask) -> Machine:
    """The real one."""
    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    env = with_runtime_dir(env, uid)
    return Machine(sys.platform, uid, user, env, runner(env), ask)


def with_runtime_dir(
    env: Mapping[str, str], uid: int, runtime_dirs: Path = Path("/run/user")
) -> Mapping[str, str]:
    """The environment, in which this user's manager can be found.

    cron gives no XDG_RUNTIME_DIR, and su leaves that of whoever called it. The bus of a
    session may be one that its manager is not on, as that of dbus-run-session.
    """
    usual = runtime_dirs / str(uid)
    try:
        ours = usual.stat().st_uid == uid
    except OSError:
        return env
    if not ours:
        return env
    bus = f"unix:path={usual / 'bus'}"
    return {**env, "XDG_RUNTIME_DIR": str(usual), "DBUS_SESSION_BUS_ADDRESS": bus}


def runner(env: Mapping[str, str]) -> Run:
    """Runs commands with this environment, without a terminal or a pager."""
    env = {**env, "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}

    def run(command: Sequence[str]) -> Ran:
        try:
            # The commands are those of this package.
            done = subprocess.run(  # noqa: S603
                list(command),
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=COMMAND_SECONDS,
            )
        except OSError as error:
            return Ran(NOT_FOUND, err=f"{command[0]}: {error.strerror or error}")
        except subprocess.TimeoutExpired:
            return Ran(1, err=f"it took longer than {COMMAND_SECONDS:g} s")
        return Ran(
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )

    return run
