"""The sender: the one thread of a client that touches its socket.

It sleeps until something is recorded, connects, freezes what is queued into
batches every ``linger_seconds`` (at once when somebody waits), sends them and
takes acknowledgements, until all is durable, and sleeps again. Each turn of
its loop takes the same steps in the same order, and only the wait blocks::

    collect   queued events and lost counts become frozen batches
    connect   when there is something to deliver and a try is due
    push      send what the window allows
    check     deadlines of Welcome and Ack
    spill     what cannot be delivered goes to the spool
    wait      for the socket, a wake-up or the next deadline
    take in   what the daemon says
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tallymark.backlog import Backlog
from tallymark.conversation import Conversation
from tallymark.errors import ConnectError, DeliveryError, ProtocolError, RefusedError
from tallymark.ids import random_fraction
from tallymark.intake import Intake
from tallymark.overflow import LOOK_SECONDS, Overflow
from tallymark.protocol.messages import Ack, Goodbye, Nack, Refused, ServerMessage, Welcome
from tallymark.settings import Settings
from tallymark.spool import Spool
from tallymark.transport import (
    READABLE,
    WOKEN,
    Poller,
    Transport,
    broken,
    cannot_reach,
    silent,
)
from tallymark.trouble import Trouble

log = logging.getLogger("tallymark")


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
        make_spool: Callable[[str, int], Spool] | None = None,
        on_welcome: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        random_fraction: Callable[[], float] = random_fraction,
    ) -> None:
        """``make_spool`` begins a spool for a daemon, by its ``server_id``, from a seq on;
        ``on_welcome`` is called whenever a daemon is ready."""
        self.backlog = Backlog(
            intake,
            settings.batch_events_max,
            None if make_spool is None else lambda seq: make_spool(self._server_id, seq),
            settings.spool_bytes_max,
        )
        self._intake = intake
        self._on_welcome = on_welcome
        self._paths = list(paths)
        self._names = {"producer": producer, "project": project, "client": client}
        self._settings = settings
        self._clock = clock
        self._trouble = Trouble(settings, clock, random_fraction)
        self._overflow = Overflow(self.backlog, intake, self._trouble, settings, clock)
        self._poller = Poller()
        self._talk: Conversation | None = None
        self._server_id = ""
        self._refused = False
        self._tick_at = 0.0
        self._stop_by: float | None = None
        self._hurried = False
        self._woken = False

    # For other threads.

    @property
    def trouble(self) -> str:
        """Why nothing can be delivered just now; empty while nothing is known to be wrong."""
        return self._trouble.text

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
        self.backlog.forget_spool()
        if self._talk is not None:
            self._talk.transport.close()

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
            if self._talk is None:
                self._connect(now)
            self._push(now)
            self._check(now)
            self._overflow.spill(now, self._talk)
            seconds = self._pause()
        self._clear_wakes()
        self._take_in(self._sleep() if seconds is None else self._wait(seconds))
        return not self._refused

    @property
    def _at_rest(self) -> bool:
        """Whether nothing is to be done until somebody records or the daemon speaks."""
        return (
            self._stop_by is None
            and self.backlog.empty
            and not self._intake.waiters
            and (self._talk is None or self._talk.open)
        )

    def _finished(self, now: float, stop_by: float) -> bool:
        if not self._hurried:
            self._hurried = True
            self._trouble.hurry()
        return self.backlog.empty or now >= stop_by

    def _end(self) -> None:
        """Say Goodbye when nothing is left, close, and let everybody go."""
        talk = self._talk
        if not self.backlog.empty:
            self.backlog.spill()
        if talk is not None:
            if not self.backlog.empty and not self.trouble:
                self._trouble.text = f"tallymarkd at {talk.path} has not acknowledged them in time"
            if talk.open and self.backlog.may_be_forgotten:
                try:
                    talk.say_goodbye()
                except OSError as error:
                    log.debug("tallymarkd was gone before the Goodbye: %s", error)
            talk.transport.close()
        self._intake.over = True
        self._intake.quiet = False
        self.backlog.leave_spool()
        self.backlog.dismiss()
        self._poller.close()

    # Collect, connect, push, check.

    def _collect(self, now: float) -> None:
        self.backlog.notice_losses(self.trouble)
        self.backlog.notice_waiters()
        talk = self._talk
        if talk is None or not talk.open or self._trouble.hold_until is not None:
            return
        if now >= self._tick_at or self._stop_by is not None or self.backlog.freeze_due:
            self._tick_at = now + self._settings.linger_seconds
            self.backlog.freeze_to(talk.window_bytes)

    def _connect(self, now: float) -> None:
        if now < self._trouble.retry_at or self.backlog.empty:
            return
        try:
            transport = Transport.connect(self._paths)
        except ConnectError as error:
            self._trouble.lost(str(error))
            return
        talk = Conversation(transport, now + self._settings.welcome_timeout_seconds)
        self._talk = talk
        self._poller.watch(transport)
        try:
            talk.begin(**self._names)
        except OSError as error:
            self._lose(broken(talk.path, error))

    def _push(self, now: float) -> None:
        talk = self._talk
        if talk is None or not talk.open:
            return
        hold_until = self._trouble.hold_until
        if hold_until is not None:
            if now < hold_until:
                return
            self._trouble.release()
            self.backlog.rewind()
        if not self.backlog.in_flight:
            talk.ack_by = now + self._settings.ack_timeout_seconds
        try:
            talk.publish(self.backlog)
        except OSError as error:
            self._lose(broken(talk.path, error))

    def _check(self, now: float) -> None:
        talk = self._talk
        if talk is None:
            return
        if not talk.open:
            if now >= talk.welcome_by:
                self._lose(silent(talk.path, self._settings.welcome_timeout_seconds))
        elif self._trouble.hold_until is None and self.backlog.in_flight and now >= talk.ack_by:
            self._lose(
                f"nothing acknowledged within {self._settings.ack_timeout_seconds:g} s; "
                "it is stopped or busy"
            )

    # Wait, take in.

    def _wait(self, seconds: float) -> int:
        if self._talk is None and not self._intake.queue:
            if not self._overflow.keeps_awake:
                return self._doze(seconds)
            seconds = min(seconds, LOOK_SECONDS)
        # A waiter that came after the last look may have found a wake-up already given.
        return self._poller.wait(0.0 if self._intake.waiters else seconds)

    def _sleep(self) -> int:
        """Wait until woken."""
        found = self._doze(None)
        self._tick_at = self._clock() + self._settings.linger_seconds
        return found

    def _doze(self, seconds: float | None) -> int:
        """Recording threads wake a sender that is quiet, and no other."""
        intake = self._intake
        intake.quiet = True
        # What came just before this saw a sender that was awake.
        busy = not self._at_rest if seconds is None else bool(intake.queue or intake.waiters)
        found = self._poller.wait(0.0 if busy else seconds)
        intake.quiet = False
        return found

    def _clear_wakes(self) -> None:
        """After the work they were for: somebody may be waiting for that."""
        if self._woken:
            self._woken = False
            self._poller.clear()

    def _pause(self) -> float | None:
        """Seconds until something must be done; None when only others can bring work."""
        talk = self._talk
        if talk is not None and not talk.open:
            due = talk.welcome_by
        elif self.backlog.empty:
            return None
        elif talk is None:
            due = self._trouble.retry_at
        elif self._trouble.hold_until is not None:
            due = self._trouble.hold_until
        elif self._more_to_freeze(talk):
            return 0.0
        else:
            # However long events may linger, a full batch is not to wait for it.
            due = min(self._tick_at, self._clock() + LOOK_SECONDS)
            if self.backlog.in_flight:
                due = min(due, talk.ack_by)
        due = min(due, self._overflow.due(talk))
        if self._stop_by is not None:
            due = min(due, self._stop_by)
        return max(0.0, due - self._clock())

    def _more_to_freeze(self, talk: Conversation) -> bool:
        due = self.backlog.freeze_due or (self._stop_by is not None and bool(self._intake.queue))
        return due and self.backlog.room_in(talk.window_bytes)

    def _take_in(self, found: int) -> None:
        talk = self._talk
        if talk is not None:
            try:
                if talk.transport.unsent:
                    talk.transport.resume()
                if found & READABLE:
                    self._receive(talk)
            except (ConnectError, ProtocolError, OSError) as error:
                self._lose(broken(talk.path, error))
        if found & WOKEN:
            self._woken = True

    def _receive(self, talk: Conversation) -> None:
        said = talk.receive()
        if said is None:
            self._lose("it closed the connection; it is stopping, or another program is there")
            return
        for message in said:
            self._handle(talk, message)

    # What the daemon says.

    def _handle(self, talk: Conversation, message: ServerMessage) -> None:
        match message:
            case Ack():
                if self.backlog.acknowledge(message):
                    talk.ack_by = self._clock() + self._settings.ack_timeout_seconds
            case Welcome():
                self._welcome(talk, message)
            case Nack():
                self._nacked(talk, message)
            case Refused():
                self._refuse(talk, message)
            case Goodbye():
                self._lose("it is stopping")
            case _:
                raise ProtocolError("cannot take an answer to a question nobody asked")

    def _welcome(self, talk: Conversation, welcome: Welcome) -> None:
        bound_to = self.backlog.bound_to
        if bound_to not in ("", welcome.server_id):
            self._lose(f"it is not the daemon {bound_to} to which the spool belongs")
            return
        first_seq = self.backlog.first_seq
        self.backlog.bind(welcome.server_id)
        self.backlog.resume(welcome.durable_seq)
        if welcome.durable_seq + 1 < first_seq:
            self._step_over(talk, welcome, first_seq)
        talk.agree(welcome.limits)
        # Once spoken to, a daemon's socket is the only one: its marks are there.
        self._paths = [talk.path]
        self._server_id = welcome.server_id
        self._trouble.over()
        self._on_welcome()

    def _step_over(self, talk: Conversation, welcome: Welcome, first_seq: int) -> None:
        """The daemon does not have what was acknowledged before: move its mark there."""
        seqs = welcome.durable_seq + 1, first_seq - 1
        if welcome.server_id == self._server_id:
            log.warning("tallymarkd has lost batches %d to %d, which it had acknowledged", *seqs)
        talk.step_over(*seqs)

    def _nacked(self, talk: Conversation, nack: Nack) -> None:
        cause = f"{nack.message} ({nack.code})"
        if not talk.open:
            self._lose(f"it is not ready: {cause}")
            self._trouble.not_before(nack.retry_after_seconds)
            return
        # The outbox goes back only when the time is over: acknowledgements of
        # what came before the refused batch may still be on their way.
        talk.transport.retract()
        text = f"tallymarkd at {talk.path} takes no events now: {cause}"
        self._trouble.hold(nack.retry_after_seconds, text)

    def _refuse(self, talk: Conversation, refused: Refused) -> None:
        self._refused = True
        text = f"tallymarkd at {talk.path} refused this client: {refused.message} ({refused.code})"
        self._trouble.text = text
        self._intake.failure = RefusedError(refused.code, text)
        self.backlog.abandon("refused")
        log.warning("%s; nothing more is delivered", text)

    # Trouble.

    def _lose(self, cause: str | ConnectError) -> None:
        """Close the connection; try again later, from the first batch that is not durable."""
        talk = self._talk
        if talk is None:
            return
        if isinstance(cause, str):
            cause = cannot_reach(talk.path, cause)
        self._poller.watch(None)
        talk.transport.close()
        self._talk = None
        self.backlog.rewind()
        self._trouble.lost(str(cause))
