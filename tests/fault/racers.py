"""Processes that race for one state directory, again and again.

``python racers.py DIRECTORY ROUNDS SEED``. In each round two or three processes are
forked and released at once; each takes the directory and the socket as ``tallymarkd``
does. It prints a JSON line for each round: how many won, what the losers said, and
whether who connects to the socket reaches the winner. The winner is then killed, which
leaves its socket behind, or it leaves in good order.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tallymark.errors import StorageError
from tallymark.fs import OsFileSystem
from tallymarkd.app import locked_state_dir
from tallymarkd.server.listener import listen

PATH = Path(__file__)
ANSWER_SECONDS_MAX = 30.0
SKEW_SECONDS_MAX = 0.0005
WON = "won"


@dataclass(frozen=True)
class _Pipes:
    """``go`` and ``end`` are read by the racers and tell by their end; ``told`` they write."""

    go: tuple[int, int]
    end: tuple[int, int]
    told: tuple[int, int]

    @classmethod
    def make(cls) -> _Pipes:
        return cls(os.pipe(), os.pipe(), os.pipe())

    def close(self) -> None:
        for fd in (*self.go, *self.end, *self.told):
            try:
                os.close(fd)
            except OSError:
                continue  # closed before, as a signal


def race(root: Path, skew_seconds: float, pipes: _Pipes) -> NoReturn:
    """One racer, in a process of its own. Never returns."""
    try:
        os.close(pipes.go[1])
        os.close(pipes.end[1])
        os.read(pipes.go[0], 1)
        until = time.perf_counter() + skew_seconds
        while time.perf_counter() < until:
            pass
        fs = OsFileSystem()
        try:
            with locked_state_dir(fs, root):
                listener = listen(fs, root / "run" / "tallymark.sock")
                _tell(pipes, WON)
                os.read(pipes.end[0], 1)
                listener.close()
        except StorageError as error:
            _tell(pipes, str(error))
        os._exit(0)
    finally:
        os._exit(1)


def _tell(pipes: _Pipes, what: str) -> None:
    os.write(pipes.told[1], f"{os.getpid()} {what}\n".encode())


def _read_lines(fd: int, count: int) -> list[str]:
    """So many lines, fewer when they do not come."""
    data = b""
    while data.count(b"\n") < count and select.select([fd], [], [], ANSWER_SECONDS_MAX)[0]:
        data += os.read(fd, 65536)
    return data.decode().splitlines()


def _listener_pid(path: Path) -> int:
    """The process that is reached through a socket's path; 0 when none is."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return 0
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", credentials)[0])


def one_round(root: Path, rng: random.Random) -> dict[str, object]:
    """Race, look, and end the winner."""
    pipes = _Pipes.make()
    stale = (root / "run" / "tallymark.sock").exists()
    pids = []
    for _ in range(rng.choice((2, 2, 3))):
        skew = rng.choice((0.0, rng.uniform(0, SKEW_SECONDS_MAX)))
        pid = os.fork()
        if pid == 0:
            race(root, skew, pipes)
        pids.append(pid)
    try:
        os.close(pipes.go[1])
        told = [line.split(" ", 1) for line in _read_lines(pipes.told[0], len(pids))]
        winners = [int(pid) for pid, what in told if what == WON]
        reached = _listener_pid(root / "run" / "tallymark.sock")
        killed = rng.random() < 0.5
        for pid in winners if killed else ():
            os.kill(pid, signal.SIGKILL)
    finally:
        pipes.close()
        for pid in pids:
            os.waitpid(pid, 0)
    return {
        "racers": len(pids),
        "told": len(told),
        "winners": len(winners),
        "reasons": [what for _, what in told if what != WON],
        "reached": [reached] == winners,
        "stale": stale,
        "killed": killed,
    }


def main() -> None:
    """All rounds."""
    root, rounds, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    for _ in range(rounds):
        print(json.dumps(one_round(root, rng)), flush=True)


if __name__ == "__main__":
    main()
