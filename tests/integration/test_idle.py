"""What a daemon costs that has nothing to do, and how soon a new one is ready."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path

import pytest

from tests.daemon import DEADLINE_SECONDS, Daemon, running, wait_for
from tests.fault.strace import cannot_trace
from tests.notify_socket import NotifySocket
from tests.speed import Times, quick

START_SECONDS_MAX = 0.3

RESIDENT_KIB_MAX = 45 * 1024

CPU_SHARE_MAX = 0.001

WAKING_SECONDS_MIN = 10.0
"""Between two wake-ups of an idle daemon."""

ASIDE_SECONDS = 0.25
"""Calls that are no further apart are of one wake-up."""

AT_REST = ("--save-interval-seconds", "0.05", "--idle-mark-seconds", "0.05")
"""What is left to do after a start is done at once."""

needs_strace = pytest.mark.skipif(bool(cannot_trace()), reason=cannot_trace())


def test_a_daemon_without_events_is_ready_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = count()
    with NotifySocket(tmp_path / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)

        def attempt() -> tuple[Times, None]:
            daemon = Daemon(tmp_path / f"state-{next(numbers)}")
            try:
                began = time.monotonic()
                daemon.spawn()
                manager.until("READY")
                took = time.monotonic() - began - waited_seconds(daemon)
                assert daemon.stop() == 0
                manager.until("STOPPING")
            finally:
                daemon.kill()
            return {"start": took}, None

        quick({"start": START_SECONDS_MAX}, attempt)


def waited_seconds(daemon: Daemon) -> float:
    """How long a daemon was ready to run while others had the processors."""
    assert daemon.process is not None
    of_main_thread = Path(f"/proc/{daemon.process.pid}/schedstat").read_text().split()
    return int(of_main_thread[1]) / 1e9


@needs_strace
@pytest.mark.parametrize("seconds", [4.0, pytest.param(25.0, marks=pytest.mark.slow)])
def test_a_daemon_without_events_sleeps(tmp_path: Path, seconds: float) -> None:
    with running(tmp_path / "state", *AT_REST) as daemon:
        wait_for("a saved state", (tmp_path / "state" / "server.json").exists)
        assert daemon.process is not None
        pid = daemon.process.pid
        with watched(pid, tmp_path / "strace.log"):
            wait_for("the last of its start", lambda: not awake(pid))
            spent = cpu_seconds(pid)
            began = time.time()
            threading.Event().wait(seconds)
            spent = cpu_seconds(pid) - spent
        wakings = wake_ups(tmp_path / "strace.log", began, began + seconds)
        resident = resident_kib(pid)
    assert len(wakings) <= 1 + seconds // WAKING_SECONDS_MIN, wakings
    assert all(b - a >= WAKING_SECONDS_MIN for a, b in pairwise(wakings)), wakings
    assert spent <= CPU_SHARE_MAX * seconds
    assert resident <= RESIDENT_KIB_MAX


@contextmanager
def watched(pid: int, log: Path) -> Iterator[None]:
    """Every system call of a process is written down, with its time."""
    command = ("strace", "-f", "-q", "-ttt", "-o", str(log), "-p", f"{pid}")
    tracer = subprocess.Popen(command)
    try:
        wait_for("strace", lambda: log.exists() and log.stat().st_size)
        yield
    finally:
        tracer.terminate()
        tracer.wait(DEADLINE_SECONDS)


def awake(pid: int) -> bool:
    """Whether any of its threads does something."""
    states = [
        stat.read_text().rpartition(") ")[2][0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return any(state != "S" for state in states)


def wake_ups(log: Path, begin: float, end: float) -> list[float]:
    """When it woke up: the first call of each stretch of calls. Seconds since the epoch."""
    times = [
        float(found) for found in re.findall(r"^\d+ +(\d+\.\d+) ", log.read_text(), re.MULTILINE)
    ]
    times = [at for at in times if begin <= at <= end]
    return [at for number, at in enumerate(times)
            if not number or at - times[number - 1] > ASIDE_SECONDS]  # fmt: skip


def cpu_seconds(pid: int) -> float:
    """What all its threads have used."""
    used = [path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(map(int, used)) / 1e9


def resident_kib(pid: int) -> int:
    """Memory that it has."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
