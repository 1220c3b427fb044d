"""Recording: what the blocking and the async client have in common.

Everything here is safe from any thread, never blocks and never raises on
account of what it is given; ``Client`` and ``AsyncClient`` are shells over it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from tallymark import paths
from tallymark.delivery import ClientStats, Delivery
from tallymark.errors import DeliveryError, UsageError
from tallymark.events import (
    ID_CHARS_MAX,
    Event,
    EventBase,
    RunEnd,
    SessionEnd,
    SessionStart,
    SessionStatus,
    SessionType,
)
from tallymark.names import CLIENT_NAME
from tallymark.paths import default_project, socket_candidates
from tallymark.settings import Settings, check_name, is_disabled
from tallymark.texts import clean, one_of, plain

log = logging.getLogger("tallymark")

_encode = msgspec.msgpack.Encoder(enc_hook=plain).encode
_now = datetime.now

SESSION_TYPES: tuple[str, ...] = get_args(SessionType)
SESSION_STATUSES: tuple[str, ...] = get_args(SessionStatus)


class Recorder:
    """A project's recorder in this process. Raises ``SettingError``, ``PathError`` when made."""

    def __init__(
        self,
        project: str | None,
        *,
        socket: str | os.PathLike[str] | None,
        spool_dir: str | os.PathLike[str] | None = None,
        source: str,
        settings: Settings,
        env: Mapping[str, str],
    ) -> None:
        self.disabled = is_disabled(env)
        self.project = clean(project or env.get(paths.PROJECT_VARIABLE)) or paths.UNNAMED_PROJECT
        self.paths: list[Path] = []
        self.source = ""
        self._cwd = ""
        self._spool_dir: Path | None = None
        self._said_spool_dir = False
        # Then nothing is looked for, and nothing can be wrong.
        if not self.disabled:
            self._find_places(project, socket, spool_dir, env)
            self.source = check_name("source", source) if source else ""
        self._host = clean(os.uname().nodename)
        self._env_session = clean(env.get("TALLYMARK_SESSION_ID"), ID_CHARS_MAX)
        self.outer_run_id = clean(env.get("TALLYMARK_PARENT_RUN_ID"), ID_CHARS_MAX)
        """The run that this process was started by; empty when by none."""
        self._session_id = ""
        self._session_by = ""
        self._session_beginners: dict[str, object] = {}
        self._ignored: dict[str, int] = {}
        self.delivery = Delivery(
            self.paths,
            project=self.project,
            client=CLIENT_NAME,
            settings=settings,
            spool_dir=self._spool_dir,
            last_words=self._end_own_session,
        )

    def _find_places(
        self,
        project: str | None,
        socket: str | os.PathLike[str] | None,
        spool_dir: str | os.PathLike[str] | None,
        env: Mapping[str, str],
    ) -> None:
        cwd = _working_directory()
        self._cwd = clean(cwd)
        self.project = check_name("project", default_project(project, env, cwd))
        self.paths = socket_candidates(socket, env)
        self._spool_dir = paths.spool_dir(spool_dir, env)
        self._said_spool_dir = bool(spool_dir or env.get(paths.SPOOL_DIR_VARIABLE))

    # Events.

    def emit(self, event: Event | Mapping[str, Any]) -> bool:
        """Queue an event; False when it was dropped and counted."""
        if self.disabled:
            return False
        complete: EventBase | dict[str, Any]
        try:
            if not isinstance(event, EventBase):
                complete = self._completed_mapping(event)
            elif not event.event_id or event.at is None or self.source:
                complete = self._completed(event)
            else:
                complete = event
        # It is the caller's: to look at it runs foreign code, and a copy may not be changed.
        except Exception as error:  # noqa: BLE001
            self.delivery.drop("not_an_event")
            self.ignore("event", f"tallymark cannot record a {type(event).__name__}: {error}")
            return False
        return self.delivery.put(complete) or self._not_taken()

    def emit_before_flush(self, event: Event | Mapping[str, Any]) -> None:
        """Queue an event that is flushed next; raises when it is not taken.

        ``UsageError`` for what could only be dropped, ``DeliveryError`` otherwise.
        """
        complete = self._completed_or_refused(event)
        if not self.delivery.put_quietly(complete):
            raise self._refusal()

    def _completed_or_refused(self, event: Event | Mapping[str, Any]) -> object:
        complete: EventBase | dict[str, Any]
        try:
            if isinstance(event, EventBase):
                complete = self._completed(event)
            else:
                complete = self._completed_mapping(event)
        # As in emit.
        except Exception as error:
            raise UsageError(f"cannot record a {type(event).__name__}: {error}") from error
        try:
            raw = _encode(complete)
        # The event holds what the caller put there; encoding it may fail in any way.
        except Exception as error:
            raise UsageError(f"cannot record the event: it cannot be encoded: {error}") from error
        # Who only queues events never loads it.
        from tallymark.checking import check_event

        check_event(raw, self.project)
        return complete

    def put(self, event: EventBase | Mapping[str, Any]) -> bool:
        """Queue an event that needs nothing more."""
        if self.disabled:
            return False
        return self.delivery.put(event) or self._not_taken()

    def _not_taken(self) -> bool:
        if self.delivery.closed:
            self.ignore("closed", "tallymark cannot record: the client is closed")
        return False

    def _completed(self, event: EventBase) -> EventBase:
        """A copy with what is absent filled in; the caller's stays as it is."""
        # copy.copy takes twice as long; msgspec's stubs leave the method out.
        event = event.__copy__()  # type: ignore[attr-defined]
        if type(event) is RunEnd:
            # A run is named and dated by itself.
            if not event.event_id:
                event.event_id = event.run_id or self.delivery.new_id()
            if event.at is None:
                event.at = event.ended_at or _now(UTC)
        else:
            if not event.event_id:
                event.event_id = self.delivery.new_id()
            if event.at is None:
                event.at = _now(UTC)
        if not event.source:
            event.source = self.source
        return event

    def _completed_mapping(self, given: object) -> dict[str, Any]:
        if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
            raise TypeError("not an event")
        event = dict(given)
        if not event.get("event_id"):
            run_id = event.get("run_id") if event["type"] == "run.end" else None
            event["event_id"] = run_id or self.delivery.new_id()
        if event.get("at") is None:
            event["at"] = _now(UTC)
        if self.source and not event.get("source"):
            event["source"] = self.source
        return event

    def no_room(self, timeout_seconds: float | None) -> DeliveryError:
        """For an event that was to be durable and for which the queue stayed too full.

        No ``FlushTimeout``: it is not pending, and nothing would ever send it.
        """
        trouble = self.delivery.trouble
        because = f": {trouble}" if trouble else ""
        return DeliveryError(
            f"cannot record the event: the queue stayed full for {timeout_seconds or 0.0:.3g} s"
            f"{because}; it was not taken, and may be emitted again"
        )

    def _refusal(self) -> DeliveryError:
        """Why an event that was to be durable is not taken."""
        failure = self.delivery.failure
        if failure is not None:
            return failure
        return DeliveryError(
            "cannot record the event: the client is closed"
            if self.delivery.closed
            else "cannot record the event: the queue is full; it is counted as dropped"
        )

    # Sessions.

    def start_session(self, session_type: SessionType | None = None) -> str:
        """Begin a session of its own; gives its id."""
        known = one_of(session_type, SESSION_TYPES)
        if known is None and session_type is not None:
            self.ignore(
                "session_type",
                f"tallymark ignored a session type: {' or '.join(SESSION_TYPES)} is right",
            )
        session_id = self.new_id()
        self._say_session_start(session_id, cast(SessionType | None, known))
        return session_id

    def end_session(self, session_id: str, status: SessionStatus = "complete") -> None:
        """End a session."""
        session_id = clean(session_id, ID_CHARS_MAX)
        known = one_of(status, SESSION_STATUSES)
        if known is None:
            self.ignore(
                "session_status",
                f"tallymark took a session's status for complete: one of "
                f"{', '.join(SESSION_STATUSES)} is right",
            )
        if not session_id:
            self.ignore("session_id", "tallymark ignored end_session: it needs a session's id")
            return
        self.emit(
            SessionEnd(session_id=session_id, status=cast(SessionStatus, known or "complete"))
        )

    def _say_session_start(self, session_id: str, session_type: SessionType | None) -> None:
        self.emit(SessionStart(session_id=session_id, session_type=session_type))

    def _own_session(self) -> str:
        """This client's own session, begun by whoever needs it first."""
        if self._session_id:
            return self._session_id
        # Its name is known to all who come at once, and nobody waits: one of them begins
        # it. A fork may come in between; the child is another incarnation.
        session_id = incarnation = self.incarnation
        me = object()
        if self._session_beginners.setdefault(incarnation, me) is me:
            self._session_by = incarnation
            self._session_id = session_id
            self._say_session_start(session_id, None)
        return session_id

    def _end_own_session(self) -> None:
        """Unless it never began, or it is the parent's of a forked child."""
        if self._session_id and self._session_by == self.incarnation:
            self._session_by = ""
            self.emit(SessionEnd(session_id=self._session_id))

    # For runs; see ``recording``.

    @property
    def incarnation(self) -> str:
        return self.delivery.producer

    @property
    def place(self) -> tuple[str, str, int]:
        return self._cwd, self._host, self.delivery.pid

    def new_id(self) -> str:
        return self.delivery.new_id()

    def default_session(self) -> str:
        return self._env_session or self._own_session()

    def environment_for(self, session_id: str, run_id: str) -> dict[str, str]:
        found = {
            "TALLYMARK_PROJECT": self.project,
            "TALLYMARK_SESSION_ID": session_id,
            "TALLYMARK_PARENT_RUN_ID": run_id,
        }
        # What was said, by argument or by variable: a child may have another working
        # directory, for which a relative path is another, or nothing of this environment.
        if len(self.paths) == 1:
            found[paths.SOCKET_VARIABLE] = str(self.paths[0])
        if self._said_spool_dir:
            found[paths.SPOOL_DIR_VARIABLE] = str(self._spool_dir)
        return found

    # Counting.

    def ignore(self, topic: str, message: str) -> None:
        """Count what was not understood, and log it the first time."""
        if self.disabled:
            return
        before = self._ignored.setdefault(topic, 0)
        self._ignored[topic] = before + 1
        if not before:
            log.warning("%s; this is said once", message)

    def stats(self) -> ClientStats:
        """Counts so far."""
        return msgspec.structs.replace(self.delivery.stats(), ignored=dict(self._ignored))


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        # It was removed, or cannot be read.
        return None
