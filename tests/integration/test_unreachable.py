"""The agent never pays: whatever is wrong with the daemon, recording goes on."""

from __future__ import annotations

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

EVENTS = 20_000

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
print(took[int(len(took) * 0.99)] * 1e6, time.time(), flush=True)
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
        found = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(path), str(EVENTS)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        ended = time.time()
    assert found.returncode == 0, found.stderr
    p99_us, last_emit = map(float, found.stdout.split())
    assert p99_us <= 50
    assert ended - last_emit <= 0.5
    lines = found.stderr.strip().splitlines()
    assert "Traceback" not in found.stderr
    assert re.match(rf"{EVENTS} events were not delivered", lines[-1]), found.stderr
    assert str(path) in lines[-1]
