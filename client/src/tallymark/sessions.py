"""A session as a context manager or a decorator; the runs within belong to it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import cast

from tallymark.context import OpenSession, P, R, current_session, decorate, is_clean_exit, restore
from tallymark.events import SessionStatus, SessionType
from tallymark.recorder import SESSION_STATUSES, Recorder
from tallymark.runs import current_run
from tallymark.texts import one_of


class Session:
    """A session, open between ``__enter__`` and ``__exit__``.

    Made by ``Client.track_session``. Works with ``with`` and ``async with``,
    and as a decorator of a function, coroutine function or generator, each call
    of which is then a session. It ends as ``complete``, or with an exception as
    ``error``; the exception goes on its way.
    """

    def __init__(self, recorder: Recorder, session_type: SessionType | None = None) -> None:
        self._recorder = recorder
        self._type = session_type
        self._depth = 0
        self._status: SessionStatus = "complete"
        self.session_id = ""
        """Its id, once it has begun."""

    def set_status(self, status: SessionStatus) -> None:
        """How it ends unless an exception ends it: ``complete``, ``continue`` or ``error``."""
        if not self._depth or self._recorder.incarnation != self._incarnation:
            self._recorder.ignore(
                "not_open",
                "tallymark ignored set_status: the session is not open, or was begun before "
                "this process forked",
            )
            return
        known = one_of(status, SESSION_STATUSES)
        if known is not None:
            self._status = cast(SessionStatus, known)
            return
        self._recorder.ignore(
            "session_status",
            f"tallymark ignored set_status: one of {', '.join(SESSION_STATUSES)} is right",
        )

    def environment(self) -> dict[str, str]:
        """Variables to add to a child's environment, so that its runs belong to this session."""
        run = current_run()
        run_id = self._recorder.outer_run_id if run is None else run.run_id
        return self._recorder.environment_for(self.session_id, run_id)

    def __enter__(self) -> Session:
        self._depth += 1
        if self._depth == 1:
            self._status = "complete"
            self._incarnation = self._recorder.incarnation
            self.session_id = self._recorder.start_session(self._type)
            self._before = current_session.get()
            self._token = current_session.set(
                OpenSession(self._recorder, self.session_id, current_run(), self._before)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth = max(self._depth - 1, 0)
        if self._depth or not self.session_id:
            return
        restore(current_session, self._token, self._before)
        # A session that was open when its process forked is the parent's to end.
        if self._recorder.incarnation == self._incarnation:
            failed = error is not None and not is_clean_exit(error)
            self._recorder.end_session(self.session_id, "error" if failed else self._status)

    async def __aenter__(self) -> Session:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate: each call is a session of its own."""
        return decorate(lambda: Session(self._recorder, self._type), function)
