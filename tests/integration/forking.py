"""A process that records, has a child, and the child records: ``forking.py HOW SOCKET SPOOL_DIR``.

Each says how it began and ended; see ``test_forks``.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tallymark import Client
from tallymark.events import RunEnd

EVENTS = 1000
FLUSH_SECONDS = 60.0
WORKERS = 3


def record(client: Client, name: str, events: int = EVENTS) -> None:
    """Record, and have the end of the process deliver the last of it."""
    for number in range(events):
        client.emit(RunEnd(event_id=f"{name}-{number}", agent_name=name))
        if number == events // 2:
            client.flush(FLUSH_SECONDS)


def child(socket: str, spool_dir: str) -> None:
    """What a child of multiprocessing does: with the parent's client where it has it."""
    client = shared[0] if shared else Client("p", socket=socket, spool_dir=spool_dir)
    record(client, "child")


shared: list[Client] = []
"""The parent's client, where the child is a fork of it."""


def by_fork(client: Client) -> None:
    """os.fork; the child ends as a script does."""
    pid = os.fork()
    if pid == 0:
        record(client, "child")
        # The interpreter's end follows: SystemExit from main.
        sys.exit(0)
    record(client, "parent")
    _, status = os.waitpid(pid, 0)
    assert status == 0


def by_multiprocessing(method: str) -> Callable[[Client], None]:
    """One of its start methods."""

    def start(client: Client) -> None:
        shared.append(client)
        context: Any = multiprocessing.get_context(method)
        process = context.Process(target=child, args=sys.argv[2:4])
        process.start()
        record(client, "parent")
        process.join()
        assert process.exitcode == 0

    return start


def by_prefork(client: Client) -> None:
    """As gunicorn --preload does: the client is made and used in the master, the workers
    are forked, and end by sys.exit in the child's own stack."""
    record(client, "parent", EVENTS // 2)
    workers = []
    for number in range(WORKERS):
        pid = os.fork()
        if pid == 0:
            record(client, f"worker{number}")
            sys.exit(0)
        workers.append(pid)
    for pid in workers:
        assert os.waitpid(pid, 0)[1] == 0


WAYS: dict[str, Callable[[Client], None]] = {
    "os.fork": by_fork,
    "fork": by_multiprocessing("fork"),
    "spawn": by_multiprocessing("spawn"),
    "forkserver": by_multiprocessing("forkserver"),
    "prefork": by_prefork,
}


def main() -> None:
    """Act."""
    how, socket, spool_dir = sys.argv[1:]
    client = Client("p", socket=socket, spool_dir=spool_dir)
    # In use before the fork, with something on its way.
    client.emit(RunEnd(event_id="first", agent_name="parent"))
    WAYS[how](client)


PATH = Path(__file__)

if __name__ == "__main__":
    main()
