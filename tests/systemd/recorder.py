"""Agents that record with the library, in the usual way and with the usual spool.

``python -m tests.systemd.recorder SOCKET COUNT NAME``. It tells ``recorded``; at its
end, when all is durable, ``events``: how many there are of each agent, with what
``Client.stats`` says.
"""

from __future__ import annotations

import sys
import time

from tallymark import Client
from tallymark.events import RunEnd
from tests.systemd.told import Teller, asked_to_end, tell

PACE_SECONDS = 0.005
END_SECONDS = 60.0


def main() -> None:
    """Record until told to end."""
    socket, count, name = sys.argv[1:]
    clients = [Client(f"library-{n}", socket=socket) for n in range(int(count))]
    teller = Teller()
    recorded = 0
    while not asked_to_end(PACE_SECONDS):
        recorded += 1
        for number, client in enumerate(clients):
            client.emit(RunEnd(event_id=f"{name}{number}-{recorded}", agent_name="a"))
        if teller.due():
            tell(recorded=recorded)
    deadline = time.monotonic() + END_SECONDS
    recorded += 1
    for number, client in enumerate(clients):
        # Durable in the daemon, and so are all before it: a flush may end in the spool.
        last = RunEnd(event_id=f"{name}{number}-{recorded}", agent_name="a")
        client.emit(last, durable=True, timeout=deadline - time.monotonic())
        client.close(deadline - time.monotonic())
    events = {f"{name}{number}": recorded for number in range(len(clients))}
    tell(events=events, stats=[client.stats() for client in clients])


if __name__ == "__main__":
    main()
