"""A disk that was full is tried again, also when nobody sends anything any more.

Else health would say that it is full until the next event, and a service manager that
goes by it would restart a daemon that is well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tallymarkd.core.engine import Engine

LOOK_SECONDS = 2.0
"""Between two looks at a full disk."""


class Room:
    """Has a record made durable once there is room again. Loop thread only."""

    def __init__(
        self,
        engine: Engine,
        *,
        free_bytes: Callable[[], int | None],
        needed_bytes: Callable[[], int],
        call_later: Callable[[float, Callable[[], None]], Any],
    ) -> None:
        """``needed_bytes`` must be free for a try: a record alone may find a place on a
        disk that has none for events."""
        self._engine = engine
        self._free_bytes = free_bytes
        self._needed_bytes = needed_bytes
        self._call_later = call_later
        self._timer: Any = None

    def after_commit(self) -> None:
        """Look from now on, if that commit found no room."""
        if self._engine.disk_full is not None and self._timer is None:
            self._timer = self._call_later(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        free = self._free_bytes()
        if free is None or free < self._needed_bytes():
            self.after_commit()
        elif self._engine.disk_full is not None:
            # Its commit comes back here, well or not.
            self._engine.probe(lambda error: None)
