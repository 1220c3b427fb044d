"""The async client: the same names and guarantees, with await.

Events go to the same queue and sender thread as the blocking client's. The
event loop is never blocked: what waits is awaited, and questions to the
daemon run in a thread.
"""

# ruff: noqa: ASYNC109 - the arguments are those of the blocking client, timeout among them.

from __future__ import annotations

import asyncio
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


class AsyncClient(Shell):
    """``Client`` for asyncio; see there for settings and guarantees.

    May be used from several loops and threads. A cancelled ``flush`` or
    durable ``emit`` leaves its events pending, but for an ``emit`` that still
    waited for room in a full queue: its event was not taken, and may be emitted
    again. A cancelled ``close`` goes on in its thread. Making one reads a few
    small files, to find the project, unless ``project`` or ``TALLYMARK_PROJECT``
    names it.
    """

    async def emit(
        self,
        event: Event | Mapping[str, Any],
        *,
        durable: bool = False,
        timeout: float | None = None,
    ) -> bool:
        """As ``Client.emit``. Without ``durable`` it does not suspend."""
        if not durable:
            return self._recorder.emit(event)
        if self._recorder.disabled:
            return False
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        if self._delivery.full:
            try:
                await self._flush(timeout)
            except FlushTimeout:
                raise self._recorder.no_room(timeout) from None
        self._recorder.emit_before_flush(event)
        await self._flush(None if deadline is None else deadline - loop.time(), durable=True)
        return True

    async def start_session(self, session_type: SessionType | None = None) -> str:
        """As ``Client.start_session``. Does not suspend."""
        return self._recorder.start_session(session_type)

    async def end_session(self, session_id: str, status: SessionStatus = "complete") -> None:
        """As ``Client.end_session``. Does not suspend."""
        self._recorder.end_session(session_id, status)

    async def flush(self, timeout: float | None = None) -> None:
        """As ``Client.flush``. Cancelled, it leaves everything pending."""
        if not self._recorder.disabled:
            await self._flush(timeout)

    async def _flush(self, timeout_seconds: float | None, *, durable: bool = False) -> None:
        delivery = self._delivery
        if delivery.failure is not None:
            raise delivery.failure
        if delivery.idle and not durable:
            return
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def notify() -> None:
            try:
                loop.call_soon_threadsafe(_resolve, done)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                return

        waiter = delivery.watch(notify, durable=durable)
        try:
            async with asyncio.timeout(timeout_seconds):
                await done
        except TimeoutError:
            raise delivery.flush_timeout(timeout_seconds or 0.0) from None
        finally:
            # Awaiting it was given up: by the timeout, or by whoever cancelled this task.
            waiter.abandoned = done.cancelled() or not done.done()
        if waiter.error is not None:
            raise waiter.error

    async def close(self, timeout: float | None = None) -> None:
        """As ``Client.close``."""
        self._retire.detach()
        if not self._recorder.disabled:
            await asyncio.to_thread(self._delivery.close, timeout)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def dump(self, timeout: float = ASK_TIMEOUT_SECONDS) -> DashboardState:
        """As ``Client.dump``."""
        self._check_enabled()
        from tallymark import questions

        return await asyncio.to_thread(
            questions.ask_state, self._recorder.paths, self.project, timeout_seconds=timeout
        )

    async def projects(self, timeout: float = ASK_TIMEOUT_SECONDS) -> list[dict[str, Any]]:
        """As ``Client.projects``."""
        self._check_enabled()
        from tallymark import questions

        return await asyncio.to_thread(
            questions.ask_projects, self._recorder.paths, timeout_seconds=timeout
        )

    async def health(
        self, *, deep: bool = False, timeout: float = ASK_TIMEOUT_SECONDS
    ) -> HealthReport:
        """As ``Client.health``."""
        self._check_enabled()
        from tallymark import questions

        return await asyncio.to_thread(
            questions.ask_health, self._recorder.paths, deep=deep, timeout_seconds=timeout
        )


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
