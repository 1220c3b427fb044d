"""Who wants no history to be retired for now: a backup that is being taken."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Held(msgspec.Struct, kw_only=True):
    """The answer to a hold: where the state is, whose it is, and through which number
    everything was durable when history began to be held."""

    durable_lsn: int
    state_dir: str
    server_id: str
    version: str


class Holds:
    """Retirement asks here before it begins, and says when it has ended. Loop thread."""

    def __init__(self, released: Callable[[], None]) -> None:
        """``released`` is called when the last hold is gone."""
        self._released = released
        self._held: set[object] = set()
        self._waiting: dict[object, Callable[[], None]] = {}
        self._retiring = False

    def __bool__(self) -> bool:
        """Whether nothing may be retired."""
        return bool(self._held)

    def take(self, ready: Callable[[], None]) -> Callable[[], None]:
        """Let nothing be retired until what this gives is called, once or more often.

        ``ready`` is called when nothing is being retired any more: at once, or after
        the one that is under way; never after the release.
        """
        hold = object()
        self._held.add(hold)
        if self._retiring:
            self._waiting[hold] = ready
        else:
            ready()
        return lambda: self._release(hold)

    def _release(self, hold: object) -> None:
        self._waiting.pop(hold, None)
        if hold in self._held:
            self._held.remove(hold)
            if not self._held:
                self._released()

    def begin(self) -> None:
        """A segment is being retired."""
        self._retiring = True

    def end(self) -> None:
        """It is gone, or could not be retired."""
        self._retiring = False
        waiting, self._waiting = self._waiting, {}
        for ready in waiting.values():
            ready()
