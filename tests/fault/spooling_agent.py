"""An agent for the ordeals: it records, flushes, says what was flushed, and dies as told.

``python spooling_agent.py PLAN``, a ``Plan`` as JSON. Each flush that returned is a
line on stdout, with how many of its events are safe from then on; ``stats`` are the
last line of one that lives to its end.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from tallymark import Client, delivery
from tallymark.adoption import Adopter
from tallymark.events import RunEnd
from tallymark.fs import OsFileSystem
from tallymark.transport import Transport

FLUSH_SECONDS = 60.0

FILE_CALLS = (
    "lock", "lock_existing", "write", "sync_data", "sync", "sync_dir", "replace", "truncate",
    "unlink",
)  # fmt: skip
"""What a client does to its spool's files. A write is cut in half."""

SOCKET_CALLS = ("send", "receive")
"""What it does to its connection. A send is cut in half."""


class Plan(msgspec.Struct, kw_only=True):
    """What an agent does. ``kill`` names a call, ``kill_at`` which one of them it dies in:
    0 for none; ``kill_after`` has the call made before it dies."""

    name: str
    socket: str
    spool_dir: str
    events: int = 0
    flush_every: int = 0
    link: str = ""
    """The daemon comes: ``socket`` becomes a name of this one …"""
    link_at: int = -1
    """… when so many events are recorded."""
    unlink_at: int = -1
    adopts: bool = False
    """Instead of recording, it delivers what others have left behind."""
    kill: str = ""
    kill_at: int = 0
    kill_after: bool = False
    ack_timeout_seconds: float = 10.0


@dataclass
class Death:
    """Counts calls of one kind, and dies in one of them."""

    plan: Plan
    calls: int = 0

    def wrap(self, owner: Any) -> None:
        """Put itself in the place of the call."""
        whole = getattr(owner, self.plan.kill)

        def wrapper(*args: Any) -> Any:
            self.calls += 1
            if self.calls != self.plan.kill_at:
                return whole(*args)
            if self.plan.kill_after:
                whole(*args)
            elif self.plan.kill == "write":
                _, fd, data, offset = args
                os.pwrite(fd, bytes(data)[: len(data) // 2], offset)
            elif self.plan.kill == "send":
                link, *pieces = args
                data = b"".join(pieces)
                link._socket.send(data[: len(data) // 2])
            die()

        setattr(owner, self.plan.kill, wrapper)


def die() -> NoReturn:
    """At once, whatever the other threads do."""
    while True:
        os.kill(os.getpid(), signal.SIGKILL)


def say(**told: Any) -> None:
    """A line that is out of this process when this returns."""
    os.write(1, msgspec.json.encode(told) + b"\n")


def event_id(name: str, number: int) -> str:
    """Of the agent's n-th event."""
    return f"{name}-{number}"


def record(plan: Plan) -> None:
    """Record events, and flush."""
    client = Client(
        "p",
        socket=plan.socket,
        spool_dir=plan.spool_dir,
        batch_events_max=8,
        ack_timeout_seconds=plan.ack_timeout_seconds,
    )
    with client:
        for number in range(plan.events):
            if number == plan.link_at:
                Path(plan.socket).symlink_to(plan.link)
            if number == plan.unlink_at:
                Path(plan.socket).unlink()
            client.emit(
                RunEnd(event_id=event_id(plan.name, number), agent_name="a", output_tokens=1)
            )
            if plan.flush_every and (number + 1) % plan.flush_every == 0:
                client.flush(FLUSH_SECONDS)
                say(safe=number + 1)
    stats = client.stats()
    say(stats=stats)


def adopt(plan: Plan) -> None:
    """Deliver spools, as a client or a daemon would."""
    adopter = Adopter(OsFileSystem(), Path(plan.spool_dir), [Path(plan.socket)], client="adopter/1")
    adopted = adopter.run()
    say(spools=adopted.spools, events=adopted.events, left=len(adopted.left))


def main() -> None:
    """Act as planned."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    if plan.kill:
        Death(plan).wrap(OsFileSystem if plan.kill in FILE_CALLS else Transport)
    # Each of them adopts its own kind only, so that it is known who dies in what.
    delivery.Delivery._look_for_orphans = lambda self: None  # type: ignore[method-assign]
    (adopt if plan.adopts else record)(plan)


PATH = Path(__file__)

if __name__ == "__main__":
    main()
