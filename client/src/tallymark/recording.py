"""What a run needs of the client that records it."""

from __future__ import annotations

from typing import Protocol

from tallymark.events import EventBase


class Recording(Protocol):
    """A client, as a run sees it. Nothing here blocks or raises."""

    @property
    def incarnation(self) -> str:
        """Names this client in this process; another after a fork."""

    @property
    def place(self) -> tuple[str, str, int]:
        """Working directory when the client was made, host, process id."""

    @property
    def source(self) -> str:
        """The program that records."""

    @property
    def outer_run_id(self) -> str:
        """The run that this process was started by; empty when by none."""

    def new_id(self) -> str:
        """An id that nothing else has."""

    def default_session(self) -> str:
        """The session of runs for which none is named, begun if need be."""

    def environment_for(self, session_id: str, run_id: str) -> dict[str, str]:
        """What a child process needs to record into the same place."""

    def put(self, event: EventBase) -> bool:
        """Queue an event that needs nothing more."""

    def ignore(self, topic: str, message: str) -> None:
        """Count what was not understood, and log it the first time."""
