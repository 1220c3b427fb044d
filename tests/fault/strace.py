"""A daemon whose system calls fail, kill or are written down: ``strace`` runs it.

strace is started as a grandchild (-D): the daemon keeps the pid and the exit code
that whoever started it sees. ``when`` of an injection counts the calls of each thread
for itself.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.daemon import wait_for


def cannot_trace() -> str:
    """Why system calls cannot be made to fail here; empty when they can."""
    return "" if shutil.which("strace") else "cannot make system calls fail: no strace"


def traced(log: Path, calls: str, *injections: str, paths: Sequence[Path] = ()) -> tuple[str, ...]:
    """The command that runs another one and writes these calls of it down.

    An injection is as strace takes it: ``fdatasync:error=EIO:when=3``. With ``paths``
    only calls on those files are written down, and hit.
    """
    command = [
        "strace",
        "-D",
        "-I2",
        "-f",
        "-q",
        "-y",
        "-s",
        "0",
        "-o",
        str(log),
        "-e",
        f"trace={calls}",
    ]
    for injection in injections:
        command += ["-e", f"inject={injection}"]
    for path in paths:
        command += ["-P", str(path)]
    return (*command, "--")


@contextmanager
def stuck(pid: int, call: str) -> Iterator[Callable[[], None]]:
    """A running process in which this call does not come back; gives what ends that.

    The tracer goes first, whatever happens: a traced process cannot be killed while
    its call is held.
    """
    command = ["strace", "-f", "-q", "-o", "/dev/null", "-p", str(pid), "-e", f"trace={call}",
               "-e", f"inject={call}:delay_enter=3600s"]  # fmt: skip
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end() -> None:
        tracer.terminate()
        tracer.wait()

    try:
        tasks = Path(f"/proc/{pid}/task")
        wait_for(
            "strace in every thread",
            lambda: all(_tracer_of(task / "status") == tracer.pid for task in tasks.iterdir()),
        )
        yield end
    finally:
        end()


def let_go(pid: int) -> None:
    """End the tracing of a process, which goes on as if nothing had been injected."""
    tracer = _tracer(pid)
    if tracer:
        os.kill(tracer, signal.SIGTERM)
        wait_for("strace to let go", lambda: not _tracer(pid))


def _tracer(pid: int) -> int:
    return _tracer_of(Path(f"/proc/{pid}/status"))


def _tracer_of(file: Path) -> int:
    try:
        status = file.read_text()
    except FileNotFoundError:
        return 0
    found = re.search(r"^TracerPid:\s*(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class Call:
    """A system call. ``path`` is that of its first descriptor, ``error`` the name of its errno."""

    name: str
    path: Path
    arguments: str
    error: str = ""


_BEGUN = re.compile(r"^(?P<thread>\d+) +(?P<name>\w+)\((?P<arguments>.*)$")
_RESUMED = re.compile(r"^(?P<thread>\d+) +<\.\.\. \w+ resumed>")
_PATH = re.compile(r"^\d+<(?P<path>[^>]*)>")
_ERROR = re.compile(r" = -1 (?P<error>E\w+) ")


def read_log(log: Path) -> list[Call]:
    """The calls of a process that has ended, in the order in which they began."""
    wait_for("the end of strace's log", lambda: "+++ " in _last_line(log))
    calls: list[Call] = []
    unfinished: dict[str, int] = {}
    for line in log.read_text(errors="replace").splitlines():
        error = _ERROR.search(line)
        if match := _BEGUN.match(line):
            path = _PATH.match(match["arguments"])
            unfinished[match["thread"]] = len(calls)
            calls.append(Call(match["name"], Path(path["path"] if path else ""),
                              match["arguments"], error["error"] if error else ""))  # fmt: skip
        elif error and (match := _RESUMED.match(line)):
            at = unfinished[match["thread"]]
            calls[at] = replace(calls[at], error=error["error"])
    return calls


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else ""
