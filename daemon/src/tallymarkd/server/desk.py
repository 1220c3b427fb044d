"""What conversations need of the daemon, whichever tongue they speak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tallymark.protocol.messages import HealthStatus, Reason
from tallymarkd.core.engine import Engine

LARGE_FRAME_BYTES = 64 * 1024
"""Frames up to here cost nothing; a larger one reserves its length from the pool."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How the daemon is. ``taking``: whether events are taken and made durable now."""

    status: HealthStatus
    reasons: list[Reason]
    report: dict[str, Any]
    taking: bool = True


class Answers(Protocol):
    """Questions about durable state. All on the loop thread."""

    def projects(self) -> bytes:
        """Every project's figures, as JSON."""

    def state(self, project: str) -> bytes | None:
        """A project's DashboardState as JSON; None for one that is not known."""

    def health(self, deep: bool, done: Callable[[Condition], None]) -> None:
        """How the daemon is; ``deep`` goes through the commit path first."""

    def hold(self, uid: int, done: Callable[[bytes, str], None]) -> Callable[[], None]:
        """Retire no history until what this gives is called.

        ``done`` gets, once, what a backup has to know as JSON, or why it is refused.
        """


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits of conversations."""

    connections_max: int
    connections_per_user_max: int
    unacknowledged_bytes_max: int
    first_byte_timeout_seconds: float
    frame_timeout_seconds: float
    serves_all: bool = False
    """Whether everybody whom the socket lets in is served, or its owner and root alone."""


class FramePool:
    """Memory for incomplete large frames, first come first served."""

    def __init__(self, bytes_max: int) -> None:
        self._free = bytes_max
        self._waiting: dict[object, tuple[int, Callable[[], None]]] = {}
        self._held: dict[object, int] = {}

    def reserve(self, owner: object, count: int, granted: Callable[[], None]) -> bool:
        """True when ``owner`` has ``count`` bytes now; else ``granted`` is called later."""
        held = self._held.get(owner, 0)
        if held >= count:
            return True
        if not self._waiting and self._free >= count - held:
            self._take(owner, count - held)
            return True
        self._waiting[owner] = (count - held, granted)
        return False

    def _take(self, owner: object, count: int) -> None:
        self._free -= count
        self._held[owner] = self._held.get(owner, 0) + count

    def release(self, owner: object) -> None:
        """Give back what ``owner`` has, or waits for."""
        self._waiting.pop(owner, None)
        self._free += self._held.pop(owner, 0)
        while self._waiting:
            first = next(iter(self._waiting))
            count, granted = self._waiting[first]
            if count > self._free:
                return
            del self._waiting[first]
            self._take(first, count)
            granted()


@dataclass(slots=True)
class Desk:
    """Where every conversation is served. ``settings`` may be replaced at any time."""

    engine: Engine
    answers: Answers
    settings: ServerSettings
    pool: FramePool
