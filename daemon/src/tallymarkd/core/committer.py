"""Group commit: one thread writes, one sync serves everyone who waits.

A ticket is handed in with ``submit`` and comes back through ``on_commit``, in
the order of submission, once it is durable or once it is known that it could
not be kept. Whatever arrives during a commit forms the next one.

A failed sync ends the process through ``die``: no acknowledgement, no retry.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from tallymark.record import NO_PRODUCER, Kind
from tallymarkd.storage.journal import JournalFull

EXIT_IO_ERROR = 74
"""EX_IOERR of sysexits.h: the disk failed under the journal."""

FSYNC_SAMPLES_MAX = 1024
"""Durations kept for the percentiles in the health report."""

log = logging.getLogger("tallymarkd")


class Log(Protocol):
    """What the committer needs of a journal."""

    durable_lsn: int

    def append(
        self,
        kind: Kind,
        payload: bytes,
        *,
        count: int = 1,
        producer: bytes = NO_PRODUCER,
        seq: int = 0,
        from_seq: int | None = None,
    ) -> int:
        """Buffer one record; gives its LSN."""

    def sync(self) -> int:
        """Make everything appended durable."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A submitted batch. ``lsn`` is set when durable, ``failed`` when not kept.

    ``epoch`` is the epoch of its submission: after a failure, tickets of an
    older epoch are failed too, so that nothing overtakes what was lost.
    """

    kind: Kind
    payload: bytes
    count: int = 1
    producer: bytes = NO_PRODUCER
    seq: int = 0
    from_seq: int | None = None
    context: Any = None
    epoch: int = 0
    lsn: int = 0
    failed: Exception | None = None


@dataclass(slots=True)
class CommitStats:
    """Figures for health; written by the committer's thread, read by any."""

    commits: int = 0
    events: int = 0
    fsync_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=FSYNC_SAMPLES_MAX))


def exit_process(code: int) -> NoReturn:
    """End the process at once, without cleaning up behind a failed disk."""
    os._exit(code)


class Committer:
    """The writer thread. ``submit`` may be called from any thread."""

    def __init__(
        self,
        journal: Log,
        on_commit: Callable[[list[Ticket]], None],
        *,
        commit_bytes_max: int,
        idle_mark_seconds: float,
        die: Callable[[int], NoReturn] = exit_process,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._journal = journal
        self._on_commit = on_commit
        self.commit_bytes_max = commit_bytes_max
        self.idle_mark_seconds = idle_mark_seconds
        self._die = die
        self._clock = clock
        self._queue: deque[Ticket] = deque()
        self._echoes: deque[Callable[[], None]] = deque()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._stopping = False
        self._failed_epoch = -1
        self._unmarked = False
        self.epoch = 0
        # Each is written by one thread alone: a sum that two write would drift.
        self._submitted_bytes = 0
        self._settled_bytes = 0
        self.busy_since: float | None = None
        self.stats = CommitStats()
        self._thread = threading.Thread(target=self._run, name="tallymark-committer", daemon=True)

    @property
    def queue_bytes(self) -> int:
        """Payload bytes that were submitted and are not settled. Any thread."""
        return self._submitted_bytes - self._settled_bytes

    @property
    def waiting(self) -> int:
        """Tickets that wait for a commit. Any thread."""
        return len(self._queue)

    def use(self, *, commit_bytes_max: int, idle_mark_seconds: float) -> None:
        """Go on with these, from the next commit and the next wait on. Any thread."""
        self.commit_bytes_max = commit_bytes_max
        self.idle_mark_seconds = idle_mark_seconds
        self._rouse()  # the wait that has begun is one of before

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket. Never blocks."""
        ticket.epoch = self.epoch
        self._submitted_bytes += len(ticket.payload)
        self._queue.append(ticket)
        self._rouse()

    def echo(self, back: Callable[[], None]) -> None:
        """Have ``back`` called on the committer's thread between two commits, soon.

        Nothing is written. When the thread hangs in a commit, or has ended, the
        call does not come.
        """
        self._echoes.append(back)
        self._rouse()

    def stop(self, timeout: float) -> bool:
        """Commit what is queued, write the clean-stop record, end the thread.

        False when that took longer than ``timeout`` seconds. What was never started
        takes its last turns here.
        """
        self._stopping = True
        if self._thread.ident is None:
            while self.turn():
                pass
            return True
        self._rouse()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _rouse(self) -> None:
        # A lock used as a binary semaphore: the cheapest hand-over there is.
        # Releasing it twice would raise, so only a locked one is released.
        if self._wake.locked():
            try:
                self._wake.release()
            except RuntimeError:
                return

    def _run(self) -> None:
        try:
            while self.turn():
                pass
        except BaseException:
            log.critical("cannot go on writing the journal; exiting", exc_info=True)
            self._die(EXIT_IO_ERROR)

    def turn(self) -> bool:
        """One commit, idle mark or wait; false after the clean-stop record.

        The thread takes one after the other. Whoever never calls ``start`` may take
        them in its place.
        """
        while self._echoes:
            self._echoes.popleft()()
        if self._queue:
            self._commit(self._gather())
        elif self._stopping:
            self._write_control(Kind.STOP)
            return False
        elif self._unmarked:
            if not self._wake.acquire(timeout=self.idle_mark_seconds):
                self._write_control(Kind.MARK)
        else:
            self._wake.acquire()
        return True

    def _gather(self) -> list[Ticket]:
        tickets: list[Ticket] = []
        size = 0
        queue = self._queue
        while queue and (not tickets or size + len(queue[0].payload) <= self.commit_bytes_max):
            ticket = queue.popleft()
            size += len(ticket.payload)
            tickets.append(ticket)
        return tickets

    def _commit(self, tickets: list[Ticket]) -> None:
        self.busy_since = self._clock()
        try:
            self._append_and_sync(tickets)
        except JournalFull as error:
            self._fail(tickets, error)
        self.busy_since = None
        self.stats.commits += 1
        self.stats.events += sum(ticket.count for ticket in tickets)
        self._settled_bytes += sum(len(ticket.payload) for ticket in tickets)
        self._unmarked = True
        self._on_commit(tickets)

    def _append_and_sync(self, tickets: list[Ticket]) -> None:
        append = self._journal.append
        for ticket in tickets:
            if ticket.epoch <= self._failed_epoch:
                raise JournalFull("cannot keep what was sent after a batch that was not kept")
            ticket.lsn = append(
                ticket.kind,
                ticket.payload,
                count=ticket.count,
                producer=ticket.producer,
                seq=ticket.seq,
                from_seq=ticket.from_seq,
            )
        begun = self._clock()
        self._sync()
        self.stats.fsync_seconds.append(self._clock() - begun)

    def _sync(self) -> None:
        try:
            self._journal.sync()
        except OSError as error:
            # Not drained, not retried: the pages may be gone, and the next
            # call may report success for them.
            log.critical("cannot make events durable: %s; exiting with %d", error, EXIT_IO_ERROR)
            self._die(EXIT_IO_ERROR)

    def _fail(self, tickets: list[Ticket], error: JournalFull) -> None:
        """Fail what is not durable. A roll may have made a first part durable."""
        durable = self._journal.durable_lsn
        for ticket in tickets:
            if not 0 < ticket.lsn <= durable:
                ticket.lsn = 0
                ticket.failed = error
                self._failed_epoch = max(self._failed_epoch, ticket.epoch)

    def _write_control(self, kind: Kind) -> None:
        """A mark or the clean stop; on a full disk it is left out, at no loss."""
        self._unmarked = False
        try:
            self._journal.append(kind, b"")
            self._sync()
        except JournalFull:
            log.warning("cannot write a %s record: the disk is full", kind.name.lower())
