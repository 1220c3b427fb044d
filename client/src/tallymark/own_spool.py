"""The spool of this producer: begun when it is needed, and when it is tried again.

The sender's thread alone uses it. Nothing here raises: what cannot be spooled stays in
memory, which is said once for each cause.
"""

from __future__ import annotations

from collections.abc import Callable

from tallymark.errors import StorageError
from tallymark.protocol.outbox import FrozenBatch
from tallymark.spool import Spool, SpoolFull

MakeSpool = Callable[[int], Spool]
"""Makes this producer's spool, which begins with this seq. Raises ``StorageError``, ``OSError``."""

Warn = Callable[[str, str], object]
"""Logs a text, unless one on this topic was logged before."""

PAUSE_SECONDS = 2.0
"""After there was no room, or no spool could be begun: to try costs as much as to succeed."""


class OwnSpool:
    """At most one spool at a time; those that could not be removed are kept locked."""

    def __init__(
        self,
        make_spool: MakeSpool | None,
        bytes_max: int,
        warn: Warn,
        clock: Callable[[], float],
    ) -> None:
        self.spool: Spool | None = None
        """Where batches are that are not in memory; None while there are none."""
        self.unremoved: list[Spool] = []
        self._make_spool = make_spool
        self._bytes_max = bytes_max
        self._warn = warn
        self._clock = clock
        self._failed = False
        self._not_before = 0.0

    @property
    def usable(self) -> bool:
        """Whether anything may be written."""
        return self._make_spool is not None and not self._failed

    @property
    def due(self) -> bool:
        """Whether it is time to try."""
        return self.usable and self._clock() >= self._not_before

    def hurry(self) -> None:
        """Try as soon as there is a reason to."""
        self._not_before = 0.0

    def append(self, batches: list[FrozenBatch]) -> list[FrozenBatch]:
        """Make durable as many as there is room for, in order; gives those."""
        if not batches or not self.usable:
            return []
        spool = self.spool or self._begin(batches[0].seq)
        if spool is None:
            return []
        fitting = batches[: spool.room_for(batches, self._bytes_max)]
        if len(fitting) < len(batches):
            self._no_room(f"cannot spool more in {spool.path} than {self._bytes_max} bytes")
        # The disk may be full before.
        while fitting and not self._write(spool.append, fitting, self._bytes_max):
            fitting = [] if self._failed else fitting[: len(fitting) // 2]
        return fitting

    def bind(self, server_id: str) -> None:
        """Before anything of it is sent: only this daemon may ever get it."""
        spool = self.spool
        if spool is not None and self.usable:
            self._write(spool.bind, server_id)

    def _begin(self, first_seq: int) -> Spool | None:
        assert self._make_spool is not None
        try:
            self.spool = self._make_spool(first_seq)
        except SpoolFull as error:
            self._no_room(str(error))
        # Nothing was written: it may be possible later.
        except (StorageError, OSError) as error:
            self._put_off()
            self._warn("spool failed", f"cannot spool events: {error}; they stay in memory")
        return self.spool

    def _write(self, write: Callable[..., object], *args: object) -> bool:
        try:
            write(*args)
        except SpoolFull as error:
            self._no_room(str(error))
            return False
        except OSError as error:
            # What was synced before is whole; nothing more is written behind it.
            self._failed = True
            self._warn("spool failed", f"cannot spool events: {error}; they stay in memory")
            return False
        return True

    def _no_room(self, text: str) -> None:
        self._put_off()
        self._warn("spool full", f"{text}; events stay in memory")

    def _put_off(self) -> None:
        self._not_before = self._clock() + PAUSE_SECONDS

    # Its end.

    def retire(self) -> None:
        """Everything in it is acknowledged: remove it. The next one may be begun at once."""
        spool = self.spool
        if spool is None:
            return
        self.spool = None
        self.hurry()
        try:
            spool.remove()
        except OSError as error:
            # Still locked: nobody may speak in the name of a producer that lives.
            self.unremoved.append(spool)
            self._warn("spool kept", f"cannot remove {spool.path}: {error}")

    def forget(self) -> None:
        """In a forked child: it is the parent's."""
        for spool in self._all:
            spool.forget()
        self.spool = None

    def leave(self) -> None:
        """At the end: whoever comes next delivers it."""
        if self.spool is not None and not self._failed:
            self.spool.seal()
        for spool in self._all:
            spool.close()
        self.spool = None

    @property
    def _all(self) -> list[Spool]:
        return [*self.unremoved, *([] if self.spool is None else [self.spool])]
