"""Delivery of events: what both clients share.

A queue that recording threads fill without ever waiting, and one daemon
thread, "tallymark-sender", that is started by the first event and delivers
what is queued (see ``sender``).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tallymark import lifecycle
from tallymark.adoption import Adopter
from tallymark.errors import DeliveryError, FlushTimeout
from tallymark.figures import ClientStats
from tallymark.fs import OsFileSystem
from tallymark.ids import event_ids, random_fraction, uuid7
from tallymark.intake import DROP_TEXTS, DropReason, Intake, Waiter
from tallymark.sender import Sender
from tallymark.settings import Settings
from tallymark.spool import Spool, spool_paths
from tallymark.spool_header import SpoolHeader

log = logging.getLogger("tallymark")

JOIN_GRACE_SECONDS = 1.0
"""How much longer than its deadline the sender may take to end. It spools then, which
waits for the disk; a busy one takes longer than anybody would be made to wait for a daemon."""

GO_ON_SECONDS = 0.2
"""How long the interpreter's end waits at most to go on with a ``close`` cut short."""

ADOPTION_PAUSE_SECONDS = 60.0
"""How often at most a client looks for spools that were left behind."""


class Delivery:
    """One producer: queue, sender thread, and their life. Threads may share it.

    ``last_words`` is called by the first ``close``, while events are still taken.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        project: str,
        client: str,
        settings: Settings,
        spool_dir: Path | None = None,
        last_words: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        random_fraction: Callable[[], float] = random_fraction,
    ) -> None:
        self._paths = list(paths)
        self._project = project
        self._client = client
        self._settings = settings
        self._spool_dir = spool_dir
        self._fs = OsFileSystem()
        self._last_words = last_words
        self._clock = clock
        self._random = random_fraction
        self._sender: Sender | None = None
        self._begin()
        lifecycle.watch_over(self)

    def _begin(self) -> None:
        self.producer = uuid7()
        """Names this incarnation; a forked child has another."""
        self.new_id = event_ids(self.producer)
        self._intake = Intake(self._settings.queue_events_max, self._rouse)
        self.put = self._intake.put
        """``put(event) -> bool``: queue an event; False when it was dropped and counted.

        Never blocks, never raises. Replaced in a forked child: do not keep it.
        """
        self.put_quietly = self._intake.put_quietly
        """As ``put``, for an event that is flushed next."""
        self._sender = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closing = threading.RLock()  # a signal handler may close as well
        self._said_last_words = False
        self._closed = False
        self._finished = False
        self._start_failed = False
        self._adopter: Adopter | None = None
        self._adopt_at = 0.0
        self.pid = os.getpid()

    # Recording.

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count events that were lost before they could be queued."""
        self._intake.drop(reason, count)

    def _rouse(self) -> None:
        """Wake the sender, or start it. Called by whoever finds it asleep."""
        sender = self._sender
        if sender is not None:
            sender.wake()
        # Never waits: whoever holds this is starting it right now.
        elif not self._closed and self._starting.acquire(blocking=False):
            try:
                if self._sender is None:
                    self._start()
            finally:
                self._starting.release()

    def _start(self) -> None:
        lifecycle.before_threads_start()
        try:
            # Known before it runs: whoever finds it asleep must find it.
            self._sender = sender = self._make_sender()
            self._thread = thread = threading.Thread(
                target=sender.run, name="tallymark-sender", daemon=True
            )
            thread.start()
        # No descriptors or threads left, or the interpreter is ending: the
        # events stay queued, and the next one, or close, tries again.
        except (OSError, RuntimeError) as error:
            self._take_back_start()
            if not self._start_failed:
                self._start_failed = True
                log.warning("cannot start tallymark's sender: %s", error)
        # A signal handler raised: whether there is a thread now, only the sender knows.
        except BaseException:
            self._take_back_start()
            raise

    def _take_back_start(self) -> None:
        """Unless it runs. Never may there be two senders for one producer."""
        sender = self._sender
        if sender is not None:
            if not sender.claim():
                return
            sender.forget_connection()
        self._sender = self._thread = None
        self._intake.quiet = True

    def _make_sender(self) -> Sender:
        return Sender(
            self._intake,
            paths=self._paths,
            producer=self.producer,
            project=self._project,
            client=self._client,
            settings=self._settings,
            make_spool=None if self._spool_dir is None else self._make_spool,
            on_welcome=self._look_for_orphans,
            clock=self._clock,
            random_fraction=self._random,
        )

    def _make_spool(self, server_id: str, first_seq: int) -> Spool:
        assert self._spool_dir is not None
        sockets = tuple(map(str, self._paths))
        header = SpoolHeader(self.producer, self._project, server_id, sockets, first_seq)
        return Spool.create(self._fs, self._spool_dir, header)

    def _look_for_orphans(self) -> None:
        """On the sender's thread: spools without an owner are delivered by another one."""
        now = self._clock()
        if self._spool_dir is None or now < self._adopt_at:
            return
        self._adopt_at = now + ADOPTION_PAUSE_SECONDS
        try:
            if not spool_paths(self._fs, self._spool_dir):
                return
            adopter = Adopter(self._fs, self._spool_dir, self._paths, client=self._client)
            thread = threading.Thread(
                target=self._adopt, args=[adopter], name="tallymark-adopter", daemon=True
            )
            self._adopter = adopter
            thread.start()
        except (OSError, RuntimeError) as error:
            log.debug("cannot deliver spools that were left behind: %s", error)

    def _adopt(self, adopter: Adopter) -> None:
        intake = self._intake
        try:
            adopter.run(lambda: self._closed or intake.over)
        # Whatever it is, the agent must go on; the spools stay for the next one.
        except Exception:
            log.exception("cannot deliver spools that were left behind")
        self._adopter = None

    # Waiting.

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def idle(self) -> bool:
        """Whether everything recorded so far is durable, spooled or counted as lost."""
        return not self._intake.queue and not self._intake.held

    @property
    def full(self) -> bool:
        """Whether the next event would be dropped, for want of room and no other reason."""
        return not self._closed and 0 < self._intake.limit <= self._intake.pending

    @property
    def trouble(self) -> str:
        """Why nothing can be delivered just now; empty when nothing is known to be wrong."""
        return "" if self._sender is None else self._sender.trouble

    def watch(self, notify: Callable[[], object], *, durable: bool = False) -> Waiter:
        """Have ``notify`` called by the sender's thread when all recorded so far is
        durable or spooled, or with ``durable`` when it is durable.

        It is called once, also when that can never be: then ``error`` of the
        Waiter says why. Who gives up sets ``abandoned``.
        """
        waiter = Waiter(notify, durable=durable)
        self._intake.enlist(waiter)
        return waiter

    @property
    def spooled(self) -> int:
        """Events that are on disk and not yet with the daemon."""
        return 0 if self._sender is None else self._sender.backlog.spooled

    @property
    def failure(self) -> DeliveryError | None:
        """Why nothing can be delivered any more, if so."""
        return self._intake.failure

    def flush(self, timeout_seconds: float | None, *, durable: bool = False) -> None:
        """Wait until every event recorded before is durable, or at least spooled.

        Raises ``FlushTimeout``, after which they are still pending and must
        not be recorded again; ``RefusedError`` or ``DeliveryError`` when they
        can no longer be delivered.
        """
        if self._intake.failure is not None:
            raise self._intake.failure
        if self.idle and not durable:
            return
        # A plain lock is the cheapest thing another thread can wake us with.
        lock = threading.Lock()
        lock.acquire()
        waiter = self.watch(lock.release, durable=durable)
        wait = -1.0 if timeout_seconds is None else _bounded(timeout_seconds)
        released = False
        try:
            released = lock.acquire(timeout=wait)
        finally:
            waiter.abandoned = not released
        if not released:
            raise self.flush_timeout(timeout_seconds or 0.0)
        if waiter.error is not None:
            raise waiter.error

    def flush_timeout(self, timeout_seconds: float) -> FlushTimeout:
        """The error to raise when time is over."""
        pending = self._intake.pending + self.spooled
        return FlushTimeout(
            f"cannot flush within {max(timeout_seconds, 0.0):.3g} s: "
            f"{pending} events are not durable yet{self._because()}; "
            "they stay pending and must not be emitted again",
            pending_events=pending,
        )

    def _because(self) -> str:
        return self.trouble and f": {self.trouble}"

    # The end.

    def close(self, timeout_seconds: float | None = None) -> None:
        """Deliver what is queued, say Goodbye, and end the thread.

        Waits ``timeout_seconds`` at most (None: ``exit_timeout_seconds``); what
        was not delivered by then is counted in one warning. Recording after it
        drops. Closing again does nothing, or goes on where an exception of a signal
        handler cut the first short; in another thread it waits for the first. Never
        raises on account of the daemon.
        """
        seconds = self._settings.exit_timeout_seconds
        self._close(seconds if timeout_seconds is None else timeout_seconds)

    def _close(self, seconds: float) -> None:
        seconds = _bounded(seconds)
        if not self._closing.acquire(timeout=_bounded(seconds + JOIN_GRACE_SECONDS)):
            return
        try:
            if not self._finished:
                self._say_last_words()
                self._closed = True
                self._intake.shut("closed")
                self._hand_over(seconds)
                self._finished = True
                self._intake.over = True
                self._report()
        finally:
            self._closing.release()

    def _say_last_words(self) -> None:
        if not self._said_last_words:
            self._said_last_words = True
            self._last_words()

    def retire(self) -> None:
        """Deliver or spool what is queued without waiting for it, then end the thread."""
        if self._closed:
            return
        self._say_last_words()
        self._intake.shut("closed")
        if self._sender is not None:
            self._sender.stop(float("inf"), retiring=True)

    def close_at_exit(self) -> None:
        """As ``close``, or the rest of one that was cut short; for the interpreter's end."""
        seconds = self._settings.exit_timeout_seconds
        self._close(min(seconds, GO_ON_SECONDS) if self._closed else seconds)

    def _hand_over(self, seconds: float) -> None:
        # Another thread may be starting the sender just now.
        starting = self._starting.acquire(timeout=_bounded(seconds + JOIN_GRACE_SECONDS))
        try:
            if self._sender is None and self._intake.queue:
                self._sender = self._make_sender()
        finally:
            if starting:
                self._starting.release()
        if self._sender is None:
            return
        self._sender.stop(self._clock() + seconds)
        thread = self._thread
        if thread is None or not thread.is_alive():
            # No thread could be started: this one does its work, if that was not done.
            self._sender.run()
        # Not by the thread: Python takes one for ended whose join an exception cut short.
        if self._sender.ended.wait(_bounded(seconds + JOIN_GRACE_SECONDS)) and thread is not None:
            thread.join(JOIN_GRACE_SECONDS)

    def _report(self) -> None:
        pending = self._intake.pending
        losses = {reason: count for reason, count in self._intake.dropped.items() if count}
        lost = sum(losses.values())
        spooled = self.spooled
        if not pending and not lost and not spooled:
            return
        parts = [f"{spooled} spooled in {self._spool_dir}, to be sent later"] if spooled else []
        parts += [f"{pending} still unacknowledged"] if pending else []
        parts += [f"{count} {DROP_TEXTS[reason]}" for reason, count in losses.items()]
        because = self._because()
        total = spooled + pending + lost
        text = f"{total} events were not delivered: {', '.join(parts)}{because}"
        if pending and self._intake.failure is None:
            self._intake.failure = DeliveryError(f"cannot flush: the client is closed; {text}")
        log.warning("%s", text)

    # Forks and figures.

    def begin_again_in_child(self) -> None:
        """After a fork: a new producer with nothing queued; the parent keeps its own."""
        sender = self._sender
        closed = self._closed
        if sender is not None:
            sender.forget_connection()
        adopter = self._adopter
        if adopter is not None:
            adopter.forget()
        self._begin()
        if closed:
            self._closed = True
            self._intake.shut("closed")

    def stats(self) -> ClientStats:
        """Counts so far; taken while others record, so they may be off by what is on its way."""
        intake = self._intake
        counts: dict[str, int] = {
            reason: count for reason, count in intake.dropped.items() if count
        }
        if self._sender is None:
            return ClientStats(queued=len(intake.queue), dropped=counts)
        backlog = self._sender.backlog
        return ClientStats(
            queued=len(intake.queue),
            unacknowledged=intake.held,
            spooled=backlog.spooled,
            sent=backlog.sent,
            acknowledged=backlog.acknowledged,
            duplicate=backlog.duplicate,
            dropped=counts,
            rejected=dict(backlog.rejected),
        )


def _bounded(seconds: float) -> float:
    return max(0.0, min(seconds, threading.TIMEOUT_MAX))
