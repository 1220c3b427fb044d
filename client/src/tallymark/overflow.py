"""When what cannot be delivered goes to disk."""

from __future__ import annotations

import math
from collections.abc import Callable

from tallymark.backlog import Backlog
from tallymark.conversation import Conversation
from tallymark.intake import Intake
from tallymark.settings import Settings
from tallymark.trouble import Trouble

SPILL_SECONDS = 0.1
"""Between two writes to the spool, each of which waits for the disk."""

LOOK_SECONDS = 0.02
"""How often the queue is looked at while it may fill."""


AWAKE_SECONDS = 1.0
"""How long after the last event the sender looks for more by itself. To wake it is a
system call, which those who record would have to make again and again."""


class Overflow:
    """The sender's rule for its spool. Its thread alone uses it.

    Events go there when nothing has got through for ``spool_after_seconds``; with the
    daemon out of reach at once when somebody waits for them, or the queue is half full.
    """

    def __init__(
        self,
        backlog: Backlog,
        intake: Intake,
        trouble: Trouble,
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        self._backlog = backlog
        self._intake = intake
        self._trouble = trouble
        self._settings = settings
        self._clock = clock
        self._not_before = 0.0
        self._awake_until = 0.0

    def spill(self, now: float, talk: Conversation | None) -> None:
        """Write to the spool if it is time to."""
        since = self._stuck_since(talk)
        if since is None or now < self._not_before or not self._backlog.spill_due:
            return
        down = self._trouble.since is not None and (talk is None or not talk.open)
        hurry = down and (self._backlog.somebody_waits or self._intake.half_full)
        if hurry or now >= since + self._settings.spool_after_seconds:
            self._not_before = now + SPILL_SECONDS
            self._backlog.spill()

    def due(self, talk: Conversation | None) -> float:
        """When to look again, by the sender's clock."""
        if self._intake.queue:
            self._awake_until = self._clock() + AWAKE_SECONDS
        since = self._stuck_since(talk)
        if since is None or not self._backlog.spill_due:
            return math.inf
        due = max(since + self._settings.spool_after_seconds, self._not_before)
        return min(due, self._clock() + LOOK_SECONDS) if self._intake.queue else due

    @property
    def keeps_awake(self) -> bool:
        """Whether more events are likely to come soon."""
        return self._clock() < self._awake_until

    def _stuck_since(self, talk: Conversation | None) -> float | None:
        """Since when nothing gets through; None when nothing is known to be wrong."""
        trouble, settings = self._trouble, self._settings
        if talk is None or not talk.open:
            if trouble.since is not None or talk is None:
                return trouble.since
            return talk.welcome_by - settings.welcome_timeout_seconds
        if trouble.hold_until is not None:
            return trouble.held_since
        if self._backlog.in_flight:
            return talk.ack_by - settings.ack_timeout_seconds
        return None
