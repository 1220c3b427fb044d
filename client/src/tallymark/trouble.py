"""Why nothing gets through to the daemon, since when, and when to try again."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tallymark.backoff import Backoff
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
        """When the daemon was found to be out of reach; None while it is not."""
        self.retry_at = 0.0
        self.hold_until: float | None = None
        self.held_since = 0.0

    def lost(self, text: str) -> None:
        """The daemon cannot be spoken to: try again, later each time."""
        self.hold_until = None
        self.retry_at = self._clock() + self._backoff.next_seconds()
        self.text = text
        if self.since is None:
            self.since = self._clock()
            log.info("%s; trying again", text)

    def not_before(self, seconds: float) -> None:
        """The daemon asks for a pause before the next try."""
        self.retry_at = max(self.retry_at, self._clock() + seconds)

    def hurry(self) -> None:
        """A last try now, instead of when the backoff would have it."""
        self._backoff.reset()
        self.retry_at = self._clock()

    def over(self) -> None:
        """The daemon is ready."""
        self._backoff.reset()
        self.since = None
        self.text = ""

    def hold(self, seconds: float, text: str) -> None:
        """Send nothing for a while. What follows a refused batch is refused as well,
        with a pause of its own: the longest counts."""
        now = self._clock()
        if self.hold_until is None:
            self.held_since = now
        self.hold_until = max(now + seconds, self.hold_until or 0.0)
        self.text = text

    def release(self) -> None:
        """The pause is over."""
        self.hold_until = None
        self.text = ""
