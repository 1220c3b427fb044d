"""What a service manager sees of the daemon: ready, alive, reloading, stopping.

The watchdog is fed only by an echo that has gone through the committer's thread and
come back to the loop. A loop that hangs sends none, and a writer that hangs in a sync
gives none back: either way the feeding ends, and the service manager ends us.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tallymarkd.server.notify import Notifier

STATUS_SECONDS = 30.0
"""Between two status lines where no watchdog is asked for."""

FEEDINGS = 2
"""Feedings in each interval of the watchdog: half of it, as sd_watchdog_enabled(3) says."""

Echo = Callable[[Callable[[], None]], None]
"""Has something called on the loop, by way of the committer's thread."""


class Supervision:
    """Speaks to the service manager for the daemon. Loop thread only."""

    def __init__(
        self,
        notifier: Notifier,
        watchdog_seconds: float | None,
        *,
        echo: Echo,
        status: Callable[[], str],
        call_later: Callable[[float, Callable[[], None]], Any],
        clock: Callable[[], float] = time.monotonic,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._notifier = notifier
        self._watchdog_seconds = watchdog_seconds
        self._echo = echo
        self._status = status
        self._call_later = call_later
        self._clock = clock
        self._monotonic_ns = monotonic_ns
        self._timer: Any = None
        self._echoing = False
        self._is_ready = False
        self._fed = clock()

    def cannot_commit(self, problem: str) -> None:
        """The start is not done: nothing can be made durable yet."""
        self._notifier.starting(f"not ready: {problem}")

    def ready(self) -> None:
        """The first event could be made durable. Begins to feed the watchdog."""
        self._fed = self._clock()
        self._is_ready = True
        self._notifier.ready(self._status())
        if self._notifier:
            self._tick()

    def reload(self, apply: Callable[[], None]) -> None:
        """Take over settings by ``apply``, and have the service manager wait for it.

        During a start it only takes them over: to be done with a reload is to be ready,
        which would have the watchdog run before anything feeds it.
        """
        if not self._is_ready:
            apply()
            return
        self._notifier.reloading(self._monotonic_ns() // 1000)
        apply()
        self._notifier.ready(self._status())

    def stopping(self) -> None:
        """The drain begins. The watchdog goes on: a drain can hang, too."""
        self._notifier.stopping("stopping: committing what has arrived")

    def end(self) -> None:
        """Nothing more is sent."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def late_seconds(self) -> float | None:
        """By how much the watchdog's next feeding is overdue; None when it is not."""
        if self._watchdog_seconds is None:
            return None
        late = self._clock() - self._fed - self._watchdog_seconds / FEEDINGS
        return late if self._echoing and late > 0 else None

    def _tick(self) -> None:
        seconds = STATUS_SECONDS
        if self._watchdog_seconds is not None:
            seconds = self._watchdog_seconds / FEEDINGS
        self._timer = self._call_later(seconds, self._tick)
        # One that is still under way stands for all that would come behind it.
        if not self._echoing:
            self._echoing = True
            self._echo(self._alive)

    def _alive(self) -> None:
        self._echoing = False
        self._fed = self._clock()
        self._notifier.alive(self._status())
