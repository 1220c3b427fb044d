"""Everything that health looks at."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from tallymark.fs import FileSystem
from tallymarkd.config import Settings
from tallymarkd.core.checkpoint import Checkpointer
from tallymarkd.core.committer import Committer
from tallymarkd.core.engine import Engine
from tallymarkd.core.restore import RecoveryReport
from tallymarkd.health.pulse import Pulse
from tallymarkd.storage.journal import Journal

OVERLOAD_SHARE = 0.8
"""Of ``unacknowledged_total_bytes_max``: beyond it the daemon is at its limit. Reading
pauses at the limit itself and goes on below it, so at the limit it hardly ever stands."""


@dataclass(slots=True)
class Vitals:
    """The parts of the daemon, and what was seen of them. Loop thread only.

    ``settings`` may be replaced at any time. ``connections_max`` gives for how many
    connections there is room, which may be less than the setting; ``watchdog_late_seconds``
    by how many seconds the service manager's watchdog was fed too late, None when it was
    not or when there is none; ``config_problem`` why the last reload was refused, empty
    when it was not; ``spools_waiting`` how many spools of agents that are gone this
    daemon may not, or cannot yet, take in.
    """

    settings: Settings
    fs: FileSystem
    engine: Engine
    committer: Committer
    checkpointer: Checkpointer
    journal: Journal
    recovery: RecoveryReport
    connections: Callable[[], int]
    connections_max: Callable[[], int]
    watchdog_late_seconds: Callable[[], float | None] = lambda: None
    config_problem: Callable[[], str] = lambda: ""
    spools_waiting: Callable[[], int] = lambda: 0
    clock: Callable[[], float] = time.perf_counter
    started: float = field(default_factory=time.time)
    pulse: Pulse = field(default_factory=Pulse)
    process: psutil.Process = field(default_factory=psutil.Process)

    def after_commit(self, lag_seconds: float) -> None:
        """Look after a commit was taken in; it had waited so long for the loop."""
        now = self.clock()
        syncs = self.committer.stats.fsync_seconds
        self.pulse.beat(now, lag_seconds, syncs[-1] if syncs else 0.0)
        self.look(now)

    def look(self, now: float) -> tuple[float, float | None]:
        """Seconds for which the queue has been full; seconds since the last dropped events."""
        overloaded = self.pulse.overload.look(self.queue_share >= OVERLOAD_SHARE, now)
        return overloaded, self.pulse.look_for_drops(self.engine.books.new_skips, now)

    @property
    def queue_share(self) -> float:
        """What is taken and not durable yet, as a share of what may be."""
        return self.engine.unacknowledged_bytes / self.settings.unacknowledged_total_bytes_max

    def free_bytes(self) -> int | None:
        """Free space at the state directory; None when it cannot be reached."""
        try:
            return self.fs.free_bytes(self.settings.state_dir)
        except OSError:
            return None
