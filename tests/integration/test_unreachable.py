"""The agent never pays: whatever is wrong with the daemon, recording goes on."""

from __future__ import annotations

import math
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon import running
from tests.speed import Times, quick

EVENTS = 20_000
RECORDING_SECONDS_MAX = 50e-6
EXIT_SECONDS_MAX = 0.5

PROGRAM = """
import sys, time
from tallymark import Client
from tallymark.events import Usage

client = Client("p", socket=sys.argv[1])
took = []
for number in range(int(sys.argv[2])):
    begun = time.perf_counter()
    client.emit(Usage(agent_name="coding", input_tokens=1, output_tokens=number))
    took.append(time.perf_counter() - begun)
took.sort()
print(took[int(len(took) * 0.99)], time.time(), flush=True)
"""


@contextmanager
def no_socket(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "absent.sock"


@contextmanager
def refused(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "refused.sock"
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(path))
    yield path


@contextmanager
def stopped_daemon(tmp_path: Path) -> Iterator[Path]:
    with running(tmp_path / "state") as daemon:
        daemon.signal(signal.SIGSTOP)
        try:
            yield daemon.socket
        finally:
            daemon.signal(signal.SIGCONT)


@contextmanager
def foreign_listener(tmp_path: Path) -> Iterator[Path]:
    """Another program: it answers with a line that is no tallymark."""
    path = tmp_path / "foreign.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"220 mail.example ready\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize("situation", [no_socket, refused, stopped_daemon, foreign_listener])
def test_recording_never_raises_waits_or_loses_count(
    tmp_path: Path,
    situation: Callable[[Path], contextmanager[Path]],  # type: ignore[valid-type]
) -> None:
    with situation(tmp_path) as path:  # type: ignore[attr-defined]
        quick(
            {"p99": RECORDING_SECONDS_MAX, "end": EXIT_SECONDS_MAX, "told": EXIT_SECONDS_MAX},
            lambda: emit_in_vain(path),
        )


def emit_in_vain(path: Path) -> tuple[Times, None]:
    """Twice the queue to nobody: nothing raised, and everything counted."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(EVENTS)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    ended = time.time()
    assert found.returncode == 0, found.stderr
    p99, last_emit = map(float, found.stdout.split())
    assert "Traceback" not in found.stderr
    last_line = found.stderr.strip().splitlines()[-1]
    assert re.match(rf"{EVENTS} events were not delivered", last_line), found.stderr
    end = ended - last_emit
    # A machine that did not run the sender in all that time leaves it without a cause.
    told = end if str(path) in last_line else math.inf
    return {"p99": p99, "end": end, "told": told}, None
