"""The sender: the one thread of a client that touches its socket.

It sleeps until something is recorded, connects, freezes what is queued into
batches every ``linger_seconds`` (at once when somebody waits), sends them and
takes acknowledgements, until all is durable, and sleeps again. Each turn of
its loop takes the same steps in the same order, and only the wait blocks::

    collect   queued events and lost counts become frozen batches
    link up   connect when there is something to deliver and a try is due
    push      send what the window allows
    check     deadlines of Welcome and Ack
    wait      for the socket, a wake-up or the next deadline
    take in   what the daemon says
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tallymark.backlog import Backlog
from tallymark.errors import ConnectError, DeliveryError, ProtocolError, RefusedError
from tallymark.intake import Intake
from tallymark.protocol import messages
from tallymark.protocol.connection import ClientConnection, State
from tallymark.protocol.framing import frame
from tallymark.protocol.messages import (
    Ack,
    Goodbye,
    Nack,
    Refused,
    ServerMessage,
    Skip,
    Welcome,
)
from tallymark.settings import Settings
from tallymark.transport import (
    NOT_TALLYMARK,
    READABLE,
    WOKEN,
    Poller,
    Transport,
    cannot_reach,
    silent,
)

log = logging.getLogger("tallymark")

WINDOW_BYTES_MAX = 8 * 1024 * 1024
"""Most unacknowledged bytes, unless the daemon allows less."""


class _Link:
    """One connection with what the protocol knows of it."""

    def __init__(self, transport: Transport, welcome_by: float) -> None:
        self.transport = transport
        self.connection = ClientConnection()
        self.welcome_by = welcome_by
        self.window_bytes = 0

    @property
    def open(self) -> bool:
        return self.connection.state is State.OPEN


class Sender:
    """Delivers what is in an ``Intake``. ``run`` is the thread's whole life.

    ``wake`` and ``stop`` may be called from any thread, and ``trouble`` and
    the backlog's counters read from any.
    """

    def __init__(
        self,
        intake: Intake,
        *,
        paths: Sequence[Path],
        producer: str,
        project: str,
        client: str,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        random_fraction: Callable[[], float] = random.random,
    ) -> None:
        self.backlog = Backlog(intake, settings.batch_events_max)
        self.trouble = ""
        """Why nothing can be delivered just now; empty while connected."""
        self._intake = intake
        self._paths = list(paths)
        self._names = {"producer": producer, "project": project, "client": client}
        self._settings = settings
        self._clock = clock
        self._random = random_fraction
        self._poller = Poller()
        self._link: _Link | None = None
        self._server_id = ""
        self._failures = 0
        self._in_trouble = False
        self._refused = False
        self._retry_at = 0.0
        self._tick_at = 0.0
        self._ack_by = 0.0
        self._hold_until: float | None = None
        self._stop_by: float | None = None
        self._hurried = False
        self._woken = False

    # For other threads.

    def wake(self) -> None:
        """Have the thread look for work at once."""
        self._poller.wake()

    def stop(self, deadline: float) -> None:
        """Deliver what there is and end, at the deadline at the latest."""
        self._stop_by = deadline
        self._poller.wake()

    def forget_connection(self) -> None:
        """In a forked child: close the descriptors that are the parent's, silently."""
        self._poller.close()
        if self._link is not None:
            self._link.transport.close()

    # The thread.

    def run(self) -> None:
        """Deliver until stopped or refused."""
        try:
            while self._turn():
                pass
        # Whatever it is, the agent must go on; what is lost is counted.
        except Exception as error:
            log.exception("cannot deliver any more: tallymark's sender failed")
            self._intake.failure = DeliveryError(f"cannot deliver: the sender failed: {error}")
            self.backlog.abandon("failed")
        finally:
            self._end()

    def _turn(self) -> bool:
        seconds = None
        if not self._at_rest:
            now = self._clock()
            self._collect(now)
            if self._stop_by is not None and self._finished(now, self._stop_by):
                return False
            if self._link is None:
                self._link_up(now)
            self._push(now)
            self._check(now)
            seconds = self._pause()
        self._take_in(self._sleep() if seconds is None else self._wait(seconds))
        return not self._refused

    @property
    def _at_rest(self) -> bool:
        """Whether nothing is to be done until somebody records or the daemon speaks."""
        return (
            self._stop_by is None
            and self.backlog.empty
            and not self._intake.waiters
            and (self._link is None or self._link.open)
        )

    def _finished(self, now: float, stop_by: float) -> bool:
        if not self._hurried:
            # A last try now, instead of when the backoff would have it.
            self._hurried = True
            self._failures = 0
            self._retry_at = now
        return self.backlog.empty or now >= stop_by

    def _end(self) -> None:
        """Say Goodbye when nothing is left, close, and let everybody go."""
        link = self._link
        if link is not None:
            if link.open and self.backlog.empty:
                try:
                    link.transport.send(link.connection.send(Goodbye()))
                except OSError as error:
                    log.debug("tallymarkd was gone before the Goodbye: %s", error)
            link.transport.close()
        self._intake.over = True
        self._intake.quiet = False
        self.backlog.dismiss()
        self._poller.close()

    # Collect, link up, push.

    def _collect(self, now: float) -> None:
        self.backlog.notice_losses(self.trouble)
        if self._intake.waiters:
            self.backlog.freeze_for_waiters()
        link = self._link
        if link is None or not link.open or self._hold_until is not None:
            return
        if now >= self._tick_at or self._stop_by is not None or self.backlog.batch_ready:
            self._tick_at = now + self._settings.linger_seconds
            self.backlog.freeze_to(link.window_bytes)

    def _link_up(self, now: float) -> None:
        if now < self._retry_at or self.backlog.empty:
            return
        try:
            transport = Transport.connect(self._paths)
        except ConnectError as error:
            self._retry_later(str(error))
            return
        link = _Link(transport, now + self._settings.welcome_timeout_seconds)
        self._link = link
        self._poller.watch(transport)
        try:
            transport.send(link.connection.start(**self._names))
        except OSError as error:
            self._lose(_broken(error))

    def _push(self, now: float) -> None:
        link = self._link
        if link is None or not link.open:
            return
        if self._hold_until is not None:
            if now < self._hold_until:
                return
            self._hold_until = None
            self.trouble = ""
            self.backlog.rewind()
        if not self.backlog.in_flight:
            self._ack_by = now + self._settings.ack_timeout_seconds
        try:
            while not link.transport.unsent:
                batches = self.backlog.take(link.window_bytes)
                if not batches:
                    return
                for batch in batches:
                    link.transport.send(batch.frame)
        except OSError as error:
            self._lose(_broken(error))

    # Check, wait, take in.

    def _check(self, now: float) -> None:
        link = self._link
        if link is None:
            return
        if not link.open:
            if now >= link.welcome_by:
                self._lose(silent(link.transport.path, self._settings.welcome_timeout_seconds))
        elif self._hold_until is None and self.backlog.in_flight and now >= self._ack_by:
            self._lose(
                f"nothing acknowledged within {self._settings.ack_timeout_seconds:g} s; "
                "it is stopped or busy"
            )

    def _wait(self, seconds: float) -> int:
        self._clear_wakes()
        # A waiter that came after the last look may have found a wake-up already given.
        return self._poller.wait(0.0 if self._intake.waiters else seconds)

    def _sleep(self) -> int:
        """Wait until woken. Recording threads wake a sender that is quiet, and no other."""
        self._clear_wakes()
        intake = self._intake
        intake.quiet = True
        # What came just before this saw a sender that was awake.
        found = self._poller.wait(None if self._at_rest else 0.0)
        intake.quiet = False
        self._tick_at = self._clock() + self._settings.linger_seconds
        return found

    def _clear_wakes(self) -> None:
        """After the work they were for: somebody may be waiting for that."""
        if self._woken:
            self._woken = False
            self._poller.clear()

    def _pause(self) -> float | None:
        """Seconds until something must be done; None when only others can bring work."""
        link = self._link
        if link is not None and not link.open:
            due = link.welcome_by
        elif self.backlog.empty:
            return None
        elif link is None:
            due = self._retry_at
        elif self._hold_until is not None:
            due = self._hold_until
        else:
            due = min(self._tick_at, self._ack_by) if self.backlog.in_flight else self._tick_at
        if self._stop_by is not None:
            due = min(due, self._stop_by)
        return max(0.0, due - self._clock())

    def _take_in(self, found: int) -> None:
        link = self._link
        try:
            if link is not None:
                if link.transport.unsent:
                    link.transport.resume()
                if found & READABLE:
                    self._receive(link)
        except ProtocolError as error:
            self._lose(f"{NOT_TALLYMARK}: {error}")
        except OSError as error:
            self._lose(_broken(error))
        if found & WOKEN:
            self._woken = True

    def _receive(self, link: _Link) -> None:
        data = link.transport.receive()
        if data is None:
            return
        if not data:
            self._lose("it closed the connection; it is stopping, or another program is there")
            return
        for message in link.connection.receive(data):
            self._handle(link, message)

    # What the daemon says.

    def _handle(self, link: _Link, message: ServerMessage) -> None:
        match message:
            case Ack():
                if self.backlog.acknowledge(message):
                    self._ack_by = self._clock() + self._settings.ack_timeout_seconds
            case Welcome():
                self._welcome(link, message)
            case Nack():
                self._nacked(link, message)
            case Refused():
                self._refuse(link, message)
            case Goodbye():
                self._lose("it is stopping")
            case _:
                raise ProtocolError("cannot take an answer to a question nobody asked")

    def _welcome(self, link: _Link, welcome: Welcome) -> None:
        first_seq = self.backlog.first_seq
        self.backlog.resume(welcome.durable_seq)
        if welcome.durable_seq + 1 < first_seq:
            self._step_over(link, welcome, first_seq)
        link.window_bytes = min(WINDOW_BYTES_MAX, welcome.limits.unacknowledged_bytes_max)
        # Once spoken to, a daemon's socket is the only one: its marks are there.
        self._paths = [link.transport.path]
        self._server_id = welcome.server_id
        self._failures = 0
        self._in_trouble = False
        self.trouble = ""

    def _step_over(self, link: _Link, welcome: Welcome, first_seq: int) -> None:
        """The daemon does not have what was acknowledged before: move its mark there."""
        from_seq, through_seq = welcome.durable_seq + 1, first_seq - 1
        if welcome.server_id == self._server_id:
            log.warning(
                "tallymarkd has lost batches %d to %d, which it had acknowledged",
                from_seq,
                through_seq,
            )
        skip = Skip(
            from_seq=from_seq, through_seq=through_seq, events=0, reason="acknowledged_before"
        )
        link.transport.send(frame(messages.encode(skip)))

    def _nacked(self, link: _Link, nack: Nack) -> None:
        cause = f"{nack.message} ({nack.code})"
        if not link.open:
            self._lose(f"it is not ready: {cause}")
            self._retry_at = max(self._retry_at, self._clock() + nack.retry_after_seconds)
            return
        # The outbox goes back only when the time is over: acknowledgements of
        # what came before the refused batch may still be on their way.
        link.transport.retract()
        self._hold_until = self._clock() + nack.retry_after_seconds
        self.trouble = f"tallymarkd at {link.transport.path} takes no events now: {cause}"

    def _refuse(self, link: _Link, refused: Refused) -> None:
        self._refused = True
        self.trouble = (
            f"tallymarkd at {link.transport.path} refused this client: "
            f"{refused.message} ({refused.code})"
        )
        self._intake.failure = RefusedError(refused.code, self.trouble)
        self.backlog.abandon("refused")
        log.warning("%s; nothing more is delivered", self.trouble)

    # Trouble.

    def _lose(self, cause: str | ConnectError) -> None:
        """Close the connection; try again later, from the first batch that is not durable."""
        link = self._link
        if link is None:
            return
        if isinstance(cause, str):
            cause = cannot_reach(link.transport.path, cause)
        self._poller.watch(None)
        link.transport.close()
        self._link = None
        self._hold_until = None
        self.backlog.rewind()
        self._retry_later(str(cause))

    def _retry_later(self, trouble: str) -> None:
        """Exponential backoff with full jitter, so that clients do not come back at once."""
        settings = self._settings
        growth = 2.0 ** min(self._failures, 30)
        ceiling = min(settings.backoff_seconds_max, settings.backoff_seconds_min * growth)
        self._failures += 1
        self._retry_at = self._clock() + self._random() * ceiling
        self.trouble = trouble
        if not self._in_trouble:
            self._in_trouble = True
            log.info("%s; trying again", trouble)


def _broken(error: OSError) -> str:
    return f"the connection broke: {error.strerror or error}"
