"""An agent that records at a steady pace, between two marks that strace sees.

``python steady_agent.py SOCKET SPOOL_DIR SECONDS EVENTS_PER_SECOND``. It says that its
first events are durable, waits for a line, records, says what it has recorded, waits for
another line, and delivers everything. It waits for time without a system call: what
is seen between the marks is the library's, or the interpreter's own.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import msgspec

from tallymark import Client
from tallymark.events import RunEnd

BEGIN = "/tallymark-steady-begin"
END = "/tallymark-steady-end"
FIRST_EVENTS = 100
FLUSH_SECONDS = 60.0

WARM_SECONDS = 0.3
"""It records before the first mark too: the marks are put around a load, not around its
beginning, whose first event wakes the sender."""


def mark(name: str) -> None:
    """A system call that nothing else makes."""
    os.path.lexists(name)


def resident_bytes() -> int:
    """Memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def say(**told: object) -> None:
    """A line on stdout."""
    os.write(1, msgspec.json.encode(told) + b"\n")


def main() -> None:
    """Record."""
    socket, spool_dir, seconds, pace = sys.argv[1:]
    client = Client("p", socket=socket, spool_dir=spool_dir)
    taken = 0
    for _ in range(FIRST_EVENTS):
        taken += client.emit(RunEnd(event_id=f"steady-{taken}", agent_name="a"))
    client.flush(FLUSH_SECONDS)
    clock = time.perf_counter
    before = resident_bytes()
    say(ready=taken)
    sys.stdin.readline()
    begun = now = clock()
    recorded = slowest = 0.0
    marked = False
    while now < begun + WARM_SECONDS + float(seconds):
        if not marked and now >= begun + WARM_SECONDS:
            marked = True
            mark(BEGIN)
        due = begun + recorded / float(pace)
        while now < due:
            now = clock()
        event = RunEnd(event_id=f"steady-{taken}", agent_name="a", output_tokens=1)
        now = clock()
        taken += client.emit(event)
        slowest = max(slowest, clock() - now)
        recorded += 1
    mark(END)
    say(taken=taken, recorded=recorded, slowest=slowest, before=before, after=resident_bytes(),
        stats=client.stats())  # fmt: skip
    sys.stdin.readline()
    client.emit(RunEnd(event_id="steady-last", agent_name="a"), durable=True, timeout=FLUSH_SECONDS)
    client.close(FLUSH_SECONDS)
    say(stats=client.stats())


PATH = Path(__file__)

if __name__ == "__main__":
    main()
