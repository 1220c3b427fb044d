"""Work that is done once, by a thread of its own or by whoever has to stand in for it."""

from __future__ import annotations

import threading


class Once:
    """A base: ``_work`` is done by the first that comes to ``run``, by nobody else ever."""

    def __init__(self) -> None:
        self._claimed = threading.Lock()
        self.ended = threading.Event()
        """Set when ``run`` is over."""

    def claim(self) -> bool:
        """Whether the caller is the first to ask: it alone may throw this away unused."""
        return self._claimed.acquire(blocking=False)

    def run(self) -> None:
        """Do the work. Does nothing when it was claimed before."""
        if self.claim():
            try:
                self._work()
            finally:
                self.ended.set()

    def _work(self) -> None:
        raise NotImplementedError
