"""One conversation with the daemon: a connection, and what the protocol knows of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tallymark.backlog import Backlog
from tallymark.protocol import messages
from tallymark.protocol.connection import ClientConnection, State
from tallymark.protocol.framing import frame
from tallymark.protocol.messages import Goodbye, Limits, ServerMessage, Skip
from tallymark.transport import Transport, turned_away

WINDOW_BYTES_MAX = 8 * 1024 * 1024
"""Most unacknowledged bytes, unless the daemon allows less."""


class Conversation:
    """Not thread-safe. Whatever sends or receives raises ``OSError`` when it is over,
    ``ProtocolError`` when the other side is no tallymarkd, and ``ConnectError`` when it
    is one that does not let this user in."""

    def __init__(self, transport: Transport, welcome_by: float) -> None:
        self.transport = transport
        self.welcome_by = welcome_by
        """When the Welcome must have come, by the sender's clock."""
        self.ack_by = 0.0
        """When something must have been acknowledged, while anything is in flight."""
        self.window_bytes = 0
        self._connection = ClientConnection()

    @property
    def open(self) -> bool:
        """Whether the Welcome has come, and no end."""
        return self._connection.state is State.OPEN

    @property
    def path(self) -> Path:
        """The socket's."""
        return self.transport.path

    def begin(self, *, producer: str, project: str, client: str) -> None:
        """Say Hello."""
        hello = self._connection.start(producer=producer, project=project, client=client)
        # Whoever turns connections away has hung up already; what it said is to be read yet.
        with contextlib.suppress(BrokenPipeError):
            self.transport.send(hello)

    def agree(self, limits: Limits) -> None:
        """Take the daemon's limits."""
        self.window_bytes = min(WINDOW_BYTES_MAX, limits.unacknowledged_bytes_max)

    def publish(self, backlog: Backlog) -> None:
        """Send what the window allows and the system takes."""
        while not self.transport.unsent:
            batches = backlog.take(self.window_bytes)
            if not batches:
                return
            self.transport.send(*[batch.frame for batch in batches])

    def step_over(self, from_seq: int, through_seq: int) -> None:
        """Move the daemon's mark over batches that were acknowledged before its time."""
        reason = "acknowledged_before"
        skip = Skip(from_seq=from_seq, through_seq=through_seq, events=0, reason=reason)
        self.transport.send(frame(messages.encode(skip)))

    def receive(self) -> list[ServerMessage] | None:
        """What the daemon said, perhaps nothing; None when it hung up."""
        data = self.transport.receive()
        if data is None:
            return []
        if self._connection.welcome is None and (error := turned_away(self.path, data)):
            raise error
        return self._connection.receive(data) if data else None

    def say_goodbye(self) -> None:
        """All is acknowledged."""
        self.transport.send(self._connection.send(Goodbye()))
