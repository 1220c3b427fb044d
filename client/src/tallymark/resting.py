"""How the sender waits, so that who records need not wake it, and who waits can."""

from __future__ import annotations

from collections.abc import Callable

from tallymark.intake import Intake
from tallymark.overflow import LOOK_SECONDS, Overflow
from tallymark.transport import WOKEN, Poller


class Rest:
    """The sender's thread alone uses it. What ends a wait is told as ``Poller`` tells it."""

    def __init__(self, poller: Poller, intake: Intake, overflow: Overflow) -> None:
        self._poller = poller
        self._intake = intake
        self._overflow = overflow
        self._woken = False

    def wait(self, seconds: float, *, connected: bool) -> int:
        """Until something happens or the time is over; no longer than more events are likely."""
        intake = self._intake
        if not connected and not intake.queue:
            if not self._overflow.keeps_awake:
                return self._doze(seconds, lambda: bool(intake.queue or intake.waiters))
            seconds = min(seconds, LOOK_SECONDS)
        # A waiter that came after the last look may have found a wake-up already given.
        return self._note(self._poller.wait(0.0 if intake.waiters else seconds))

    def sleep(self, busy: Callable[[], bool]) -> int:
        """Until woken; not at all when there is something to do."""
        return self._doze(None, busy)

    def _doze(self, seconds: float | None, busy: Callable[[], bool]) -> int:
        """Recording threads wake a sender that is quiet, and no other."""
        self._intake.quiet = True
        # What came just before this saw a sender that was awake.
        found = self._poller.wait(0.0 if busy() else seconds)
        self._intake.quiet = False
        return self._note(found)

    def _note(self, found: int) -> int:
        self._woken = self._woken or bool(found & WOKEN)
        return found

    def clear_wakes(self) -> None:
        """After the work they were for: somebody may be waiting for that."""
        if self._woken:
            self._woken = False
            self._poller.clear()
