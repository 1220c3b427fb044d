"""What is only seen by looking again and again: how long, how often, how lately.

A trouble that comes and goes within seconds is none that somebody should be called
for, and one that wavers around a limit is one trouble and not many.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

LATE_SECONDS = 1.0
"""A commit, or a turn of the loop, that takes longer is late: agents begin to spool when
they hear nothing for so long (``spool_after_seconds`` of the client)."""

LATE_TIMES = 3
"""So many within ``LATE_WINDOW_SECONDS`` are worth telling: one may be a machine that
was asleep, or a disk that was checking itself."""

LATE_WINDOW_SECONDS = 60.0
"""Also the quiet time after which it is over."""


class Often:
    """Whether something has happened ``LATE_TIMES`` within the last window."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=LATE_TIMES)
        self.worst = 0.0
        """The largest value of these times, in seconds."""

    def note(self, now: float, value: float) -> None:
        """It has happened."""
        self.worst = value if self.is_over(now) else max(self.worst, value)
        self._at.append(now)

    def told(self, now: float) -> bool:
        """Whether it is worth telling."""
        return len(self._at) == LATE_TIMES and now - self._at[0] <= LATE_WINDOW_SECONDS

    def is_over(self, now: float) -> bool:
        """Whether it has not happened within the last window."""
        return not self._at or now - self._at[-1] > LATE_WINDOW_SECONDS


@dataclass(slots=True)
class Lasting:
    """For how long something has been so, at every look."""

    since: float | None = None

    def look(self, so: bool, now: float) -> float:
        """Look again; gives the seconds, 0 when it is not so."""
        if not so:
            self.since = None
            return 0.0
        if self.since is None:
            self.since = now
        return now - self.since


@dataclass(slots=True)
class Latch:
    """Bad from one limit on, and well only when another, better one is reached."""

    on: bool = False

    def look(self, *, bad: bool, well: bool) -> bool:
        """Look again; gives whether it is bad."""
        self.on = bad or (self.on and not well)
        return self.on


@dataclass(slots=True)
class Pulse:
    """What was seen at each commit, and at each look at health. Loop thread."""

    loop_lag_seconds: float = 0.0
    late_commits: Often = field(default_factory=Often)
    late_turns: Often = field(default_factory=Often)
    overload: Lasting = field(default_factory=Lasting)
    drops_seen: int = 0
    dropped_at: float | None = None
    disk: Latch = field(default_factory=Latch)
    room: Latch = field(default_factory=Latch)
    _sync_seconds: float = 0.0

    def beat(self, now: float, lag_seconds: float, sync_seconds: float) -> None:
        """A commit has come back, after so long a sync, and so long a wait for the loop."""
        self.loop_lag_seconds = lag_seconds
        if lag_seconds > LATE_SECONDS:
            self.late_turns.note(now, lag_seconds)
        # A commit that failed has no sync of its own: the last one is seen again.
        if sync_seconds > LATE_SECONDS and sync_seconds != self._sync_seconds:
            self.late_commits.note(now, sync_seconds)
        self._sync_seconds = sync_seconds

    def look_for_drops(self, drops: int, now: float) -> float | None:
        """Seconds since agents last told of dropped events; None if they never did."""
        if drops != self.drops_seen:
            self.drops_seen = drops
            self.dropped_at = now
        return None if self.dropped_at is None else now - self.dropped_at
