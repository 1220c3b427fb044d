"""What the blocking and the async client have in common: all that never waits."""

from __future__ import annotations

import os
import weakref
from typing import Any

from tallymark.errors import ConnectError
from tallymark.events import SessionType
from tallymark.figures import ClientStats
from tallymark.recorder import Recorder
from tallymark.runs import Run
from tallymark.sessions import Session
from tallymark.settings import Settings


class Shell:
    """A recorder with its delivery, and what hands events to it without waiting."""

    def __init__(
        self,
        project: str | None = None,
        *,
        socket: str | os.PathLike[str] | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        source: str = "",
        linger_seconds: float = 0.02,
        batch_events_max: int = 1024,
        queue_events_max: int = 10_000,
        exit_timeout_seconds: float = 0.2,
        ack_timeout_seconds: float = 10.0,
        spool_after_seconds: float = 1.0,
        spool_bytes_max: int = 256 * 1024 * 1024,
    ) -> None:
        settings = Settings(
            linger_seconds=linger_seconds,
            batch_events_max=batch_events_max,
            queue_events_max=queue_events_max,
            exit_timeout_seconds=exit_timeout_seconds,
            ack_timeout_seconds=ack_timeout_seconds,
            spool_after_seconds=spool_after_seconds,
            spool_bytes_max=spool_bytes_max,
        )
        self._recorder = Recorder(
            project,
            socket=socket,
            spool_dir=spool_dir,
            source=source,
            settings=settings,
            env=os.environ,
        )
        self._delivery = self._recorder.delivery
        # A client that is dropped without close still delivers, in its own time.
        self._retire = weakref.finalize(self, self._delivery.retire)
        self._retire.atexit = False

    @property
    def project(self) -> str:
        """The project that events are recorded for."""
        return self._recorder.project

    def track_session(self, session_type: SessionType | None = None) -> Session:
        """One session: for ``with``, in an ``AsyncClient`` ``async with``, or a decorator.

        Runs that begin within belong to it, unless they name another. It ends
        with the block: complete, or an error.
        """
        return Session(self._recorder, session_type)

    def track_agent(
        self,
        agent_name: str,
        ticket_key: str = "",
        model: str = "",
        session_id: str | None = None,
        *,
        git_branch: str = "",
        attrs: dict[str, Any] | None = None,
        announce: bool = True,
    ) -> Run:
        """One run of an agent: for ``with``, in an ``AsyncClient`` ``async with``, or a decorator.

        It begins and ends with the block; success, or an error with the
        exception's text. Inside another run it is linked to that one. Without
        ``session_id`` it belongs to the session of what surrounds it most
        closely, ``track_session`` or a run, else to ``TALLYMARK_SESSION_ID``,
        else to a session of this client's own.
        ``announce`` records its beginning too, so that a run that is killed
        is known.
        """
        return Run(
            self._recorder,
            agent_name,
            ticket_key=ticket_key,
            model=model,
            session_id=session_id,
            git_branch=git_branch,
            attrs=attrs,
            announce=announce,
        )

    def stats(self) -> ClientStats:
        """Counts of what this client recorded, in this process."""
        return self._recorder.stats()

    def _check_enabled(self) -> None:
        if self._recorder.disabled:
            raise ConnectError("cannot ask tallymarkd: TALLYMARK_DISABLED is set")
