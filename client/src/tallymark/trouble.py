"""Why nothing gets through to the daemon, since when, and when to try again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from tallymark.backoff import Backoff
from tallymark.protocol.messages import Nack
from tallymark.settings import Settings

log = logging.getLogger("tallymark")


class Trouble:
    """The sender's thread alone changes it; ``text`` may be read by any.

    There are two kinds: the daemon cannot be spoken to, and is tried again after a
    pause; or it takes no events for now, and what follows is held.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        random_fraction: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._backoff = Backoff(
            settings.backoff_seconds_min, settings.backoff_seconds_max, random_fraction
        )
        self.text = ""
        """Why nothing can be delivered just now; empty while all is well."""
        self.since: float | None = None
        """When the daemon was found to be out of reach; None once something got through."""
        self.retry_at = 0.0
        self.hold_until: float | None = None
        self.held_since: float | None = None
        """When the daemon first took no events; None once it has taken any."""

    def lost(self, text: str) -> None:
        """The daemon cannot be spoken to: try again, later each time."""
        self.hold_until = None
        self.retry_at = self._clock() + self._backoff.next_seconds()
        self.text = text
        if self.since is None:
            self.since = self._clock() if self.held_since is None else self.held_since
            log.info("%s; trying again", text)

    def not_before(self, seconds: float) -> None:
        """The daemon asks for a pause before the next try."""
        self.retry_at = max(self.retry_at, self._clock() + seconds)

    def hurry(self) -> None:
        """A last try now, instead of when the backoff would have it."""
        self._backoff.reset()
        self.retry_at = self._clock()

    def welcomed(self) -> None:
        """The daemon is ready. Whether anything gets through is to be seen."""
        self.text = ""

    def progress(self) -> None:
        """Something got through, or there is nothing to deliver: what was is over."""
        self._backoff.reset()
        self.since = self.held_since = None

    def hold(self, path: Path, nack: Nack) -> None:
        """Send nothing for a while. What follows a refused batch is refused as well,
        with a pause and a word of its own: the longest pause counts, and the first cause."""
        now = self._clock()
        if self.hold_until is None or nack.code != "gap":
            cause = f"{nack.message} ({nack.code})"
            self.text = f"tallymarkd at {path} takes no events now: {cause}"
        if self.held_since is None:
            self.held_since = now
        self.hold_until = max(now + nack.retry_after_seconds, self.hold_until or 0.0)

    def release(self) -> None:
        """The pause is over; only progress tells that its cause is."""
        self.hold_until = None
        self.text = ""
