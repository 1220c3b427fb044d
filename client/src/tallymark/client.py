"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tallymark.errors import FlushTimeout
from tallymark.events import Event, SessionStatus, SessionType
from tallymark.names import ASK_TIMEOUT_SECONDS
from tallymark.shell import Shell

if TYPE_CHECKING:
    from tallymark.protocol.messages import HealthReport
    from tallymark.state import DashboardState


class Client(Shell):
    """Records what agents do, for one project.

    Threads may share a client. Recording (``emit`` without ``durable``,
    sessions, runs) puts an event into memory and returns: it never waits, and
    never raises on account of its arguments or of the daemon; what cannot be
    recorded is counted in ``stats()`` and logged once, to the logger
    ``tallymark``. A background thread, started by the first event, delivers.
    After a fork the child's client is another producer with an empty queue.

    ``project`` is by default ``TALLYMARK_PROJECT``, else that of the working
    directory; ``socket`` is ``TALLYMARK_SOCKET``, else the one in
    ``TALLYMARK_STATE_DIR``, else the user's daemon's, else the system's. What cannot
    be delivered goes to ``spool_dir``: by default ``TALLYMARK_SPOOL_DIR``, else below
    the user's state directory. It is delivered later, by this client, the next one of
    this user, or the daemon. ``source`` names
    the program that records. The other settings are those of ``settings.Settings``.
    With ``TALLYMARK_DISABLED=1`` a client does nothing at all.

    Raises ``SettingError`` and ``PathError`` for settings that cannot be right.
    """

    # Recording.

    def emit(
        self,
        event: Event | Mapping[str, Any],
        *,
        durable: bool = False,
        timeout: float | None = None,
    ) -> bool:
        """Record an event: queue it, or with ``durable`` wait until it is on disk.

        An absent ``event_id`` and ``at`` are filled in, in a copy: the same
        object emitted twice is two events. An event that has both is queued as
        it is, and must not be changed afterwards. A mapping with a ``type``
        may have fields that this version does not know.

        Queued: True when the event was taken, False when it was dropped (and
        counted). Durable: returns when it is; raises ``FlushTimeout`` after
        ``timeout`` seconds (it is still pending then and must not be emitted
        again), ``UsageError`` for an event that could not be recorded ever, since
        the daemon would reject it, another ``DeliveryError`` when it was not taken,
        as when the queue stayed full for so long, or never will arrive.
        """
        if not durable:
            return self._recorder.emit(event)
        if self._recorder.disabled:
            return False
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._delivery.full:
            try:
                self._delivery.flush(timeout)
            except FlushTimeout:
                raise self._recorder.no_room(timeout) from None
        self._recorder.emit_before_flush(event)
        left = None if deadline is None else deadline - time.monotonic()
        self._delivery.flush(left, durable=True)
        return True

    def start_session(self, session_type: SessionType | None = None) -> str:
        """Begin a session; gives the id to hand to ``track_agent`` and ``end_session``."""
        return self._recorder.start_session(session_type)

    def end_session(self, session_id: str, status: SessionStatus = "complete") -> None:
        """End a session, or pause it to be continued."""
        self._recorder.end_session(session_id, status)

    # Waiting and ending.

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything recorded before is durable, or spooled on disk because
        the daemon cannot be reached (None: as long as it takes).

        Raises ``FlushTimeout`` after ``timeout`` seconds: what is pending stays
        so and must not be emitted again. Raises another ``DeliveryError`` when
        it can no longer be delivered. What was dropped is not waited for.
        """
        if not self._recorder.disabled:
            self._delivery.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Hand over what is queued and end, within ``timeout`` seconds.

        None means ``exit_timeout_seconds``. What could not be delivered is
        spooled, and counted in one warning. The interpreter's end does the same.
        """
        self._retire.detach()
        if not self._recorder.disabled:
            self._delivery.close(timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Asking. Each of these is a conversation of its own, in the calling thread. How to ask
    # is imported then: who only records never loads it.

    def dump(self, timeout: float = ASK_TIMEOUT_SECONDS) -> DashboardState:
        """The project's durable state. Raises ``DeliveryError`` when it cannot be had."""
        self._check_enabled()
        from tallymark import questions

        return questions.ask_state(self._recorder.paths, self.project, timeout_seconds=timeout)

    def projects(self, timeout: float = ASK_TIMEOUT_SECONDS) -> list[dict[str, Any]]:
        """Every project the daemon keeps. Raises ``DeliveryError`` when it cannot be had."""
        self._check_enabled()
        from tallymark import questions

        return questions.ask_projects(self._recorder.paths, timeout_seconds=timeout)

    def health(self, *, deep: bool = False, timeout: float = ASK_TIMEOUT_SECONDS) -> HealthReport:
        """How the daemon is; ``deep`` tries its whole commit path. Raises ``DeliveryError``."""
        self._check_enabled()
        from tallymark import questions

        return questions.ask_health(self._recorder.paths, deep=deep, timeout_seconds=timeout)
