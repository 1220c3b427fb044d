"""What the sender has to deliver: from queued events to acknowledged batches.

The sender's thread alone uses it. It knows no connection: only what is
frozen, what is spooled, what is durable, who waits for it, and what was lost on
the way. In order of seq stand: what is loaded from the spool, what is still in the
spool, what was frozen after it, what is queued.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

from tallymark.batching import Batcher
from tallymark.intake import DROP_TEXTS, DropReason, Intake, Waiter
from tallymark.own_spool import MakeSpool, OwnSpool
from tallymark.protocol.messages import Ack
from tallymark.protocol.outbox import FrozenBatch, Outbox

log = logging.getLogger("tallymark")

FREEZE_BYTES_MAX = 512 * 1024
"""Frozen in one go. Then it is sent, and the daemon works on it while more is frozen."""

REPORTED: tuple[DropReason, ...] = ("queue_full", "unencodable", "too_large", "not_an_event")
"""Losses that the daemon is told of; after the others there is nobody to tell it."""


class Backlog:
    """Freezes, counts, and tells waiters. Not thread-safe; counters may be read anywhere."""

    def __init__(
        self,
        intake: Intake,
        batch_events_max: int,
        make_spool: MakeSpool | None = None,
        spool_bytes_max: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sent = 0
        """Events sent at least once."""
        self.acknowledged = 0
        self.duplicate = 0
        self.rejected: dict[str, int] = {}
        self.spooled = 0
        """Events that are in the spool and not acknowledged."""
        self._intake = intake
        self._batcher = Batcher(batch_events_max)
        self._own = OwnSpool(make_spool, spool_bytes_max, self.warn_once, clock)
        self._outbox = Outbox()
        self._spooled_seq = 0
        """Batches through this seq are, or were, in the spool."""
        self._frozen = 0
        """Events taken from the queue so far."""
        self._unnumbered: deque[Waiter] = deque()
        """Those who wait for events that are still queued."""
        self._waiting: deque[Waiter] = deque()
        self._waiting_durable: deque[Waiter] = deque()
        self._reported: Counter[DropReason] = Counter()
        self._unreported = 0
        self._said: set[str] = set()
        self._sent_seq = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is left to deliver, lost counts included."""
        intake = self._intake
        return self._own.spool is None and not (
            intake.queue or len(self._outbox) or self._unreported or intake.news
        )

    @property
    def in_flight(self) -> bool:
        """Whether something was sent and is not acknowledged."""
        return self._outbox.in_flight

    @property
    def first_seq(self) -> int:
        """The first seq that is not durable."""
        return self._outbox.acknowledged_seq + 1

    @property
    def freeze_due(self) -> bool:
        """Whether something that is queued is not to linger: a full batch, or somebody
        waits for it."""
        return bool(self._unnumbered) or len(self._intake.queue) >= self._batcher.batch_events

    def room_in(self, window_bytes: int) -> bool:
        """Whether more may be frozen."""
        return self._outbox.pending_bytes < window_bytes

    # Freezing.

    def notice_waiters(self) -> None:
        """Have those who came since the last time wait for all that is queued now."""
        waiters = self._intake.waiters
        if not waiters:
            return
        self._unnumbered = _still_there(self._unnumbered)
        self._waiting = _still_there(self._waiting)
        self._waiting_durable = _still_there(self._waiting_durable)
        while waiters:
            waiter = waiters.popleft()
            waiter.through_event = self._frozen + len(self._intake.queue)
            self._unnumbered.append(waiter)
        # Who asks now may have made room.
        self._own.hurry()
        self._number_waiters()

    def _number_waiters(self) -> None:
        """Those whose events are frozen wait for a seq; it may be durable already."""
        if not self._unnumbered:
            return
        while self._unnumbered and self._unnumbered[0].through_event <= self._frozen:
            waiter = self._unnumbered.popleft()
            waiter.seq = self._outbox.through_seq
            (self._waiting_durable if waiter.durable else self._waiting).append(waiter)
        self._release()

    def freeze_to(self, window_bytes: int) -> None:
        """Freeze what the window has room for, not too much at once, and the counts of
        what was lost."""
        if self._unreported:
            self._report_losses()
        window_bytes = min(window_bytes, self._outbox.pending_bytes + FREEZE_BYTES_MAX)
        while self._intake.queue and self.room_in(window_bytes):
            self._freeze(self._batcher.batch_events)

    def _report_losses(self) -> None:
        for reason in REPORTED:
            lost = self._intake.dropped[reason] - self._reported[reason]
            if lost > 0:
                self._reported[reason] += lost
                self._outbox.skip(lost, reason)
        self._unreported = 0

    def _freeze(self, count: int) -> None:
        while count > 0:
            events = self._intake.pull(min(count, self._batcher.batch_events))
            if not events:
                return
            count -= len(events)
            self._frozen += len(events)
            arrays, lost = self._batcher.encode(events)
            for array, number in arrays:
                self._outbox.freeze(array, number)
            for reason, cause in lost:
                self._intake.drop(reason)
                self._intake.settle(1)
                self.warn_once(reason, f"events are {DROP_TEXTS[reason]}; the first: {cause}")
            self._number_waiters()

    # The spool.

    @property
    def spill_due(self) -> bool:
        """Whether something is in memory alone that could be spooled."""
        if not self._own.due:
            return False
        return bool(self._intake.queue) or self._outbox.newest_seq > self._spooled_seq

    @property
    def somebody_waits(self) -> bool:
        """Whether somebody would be let go if what there is were spooled."""
        return bool(self._waiting) or any(not each.durable for each in self._unnumbered)

    @property
    def bound_to(self) -> str:
        """The ``server_id`` to which the spool is bound; empty for none."""
        return "" if self._own.spool is None else self._own.spool.header.server_id

    def bind(self, server_id: str) -> None:
        """Before anything of the spool is sent: only this daemon may ever get it."""
        self._own.bind(server_id)

    def spill(self) -> None:
        """Make what is in memory alone durable in the spool: all of it, or what there is room for.

        The rest stays where it is, and without a spool everything does. Waiters whose
        events are spooled are let go.
        """
        if not self._own.usable:
            return
        self._freeze(len(self._intake.queue))
        if self._unreported:
            self._report_losses()
        batches = self._own.append(self._outbox.newer(self._spooled_seq))
        if not batches:
            return
        events = sum(batch.events for batch in batches)
        self._outbox.put_elsewhere(batches[0].seq - 1, batches[-1].seq)
        self._spooled_seq = batches[-1].seq
        self.spooled += events
        self._intake.settle(events)
        self._release()

    def _refill(self, window_bytes: int) -> None:
        """Load from the spool what the window has room for."""
        outbox, spool = self._outbox, self._own.spool
        if spool is None or not outbox.holding:
            return
        try:
            while spool.unread and outbox.ready_bytes < window_bytes:
                batch = spool.next_batch()
                if batch is not None and batch.seq > outbox.acknowledged_seq:
                    outbox.load(batch)
                elif batch is not None:
                    self._count_acknowledged([batch])
        except OSError as error:
            self.warn_once("spool read", f"cannot read {spool.path}: {error}; its events wait")
            return
        if not spool.unread:
            outbox.release()

    def _retire_spool(self) -> None:
        """Remove the spool when everything in it is acknowledged."""
        if self._own.spool is None or self._outbox.acknowledged_seq < self._spooled_seq:
            return
        self._outbox.release()
        # What was acknowledged without having been loaded again.
        self.acknowledged += self.spooled
        self.spooled = 0
        self._own.retire()

    @property
    def may_be_forgotten(self) -> bool:
        """Whether no spool is left, whose events would count again without the mark."""
        return self.empty and not self._own.unremoved

    def forget_spool(self) -> None:
        """In a forked child: it is the parent's."""
        self._own.forget()

    def leave_spool(self) -> None:
        """At the end: whoever comes next delivers it."""
        self._own.leave()

    # Sending and settling.

    def take(self, window_bytes: int) -> list[FrozenBatch]:
        """Batches to send now."""
        self._refill(window_bytes)
        batches = self._outbox.take(window_bytes)
        for batch in batches:
            if batch.seq > self._sent_seq:
                self._sent_seq = batch.seq
                self.sent += batch.events
        return batches

    def rewind(self) -> None:
        """Everything that is not acknowledged is to be sent again."""
        self._outbox.rewind()

    def resume(self, durable_seq: int) -> None:
        """A new connection, whose daemon has everything through ``durable_seq``."""
        self._settle(self._outbox.resume(durable_seq))

    def acknowledge(self, ack: Ack) -> bool:
        """Take an Ack; whether it made anything durable that was not before."""
        before = self._outbox.acknowledged_seq
        gone = self._outbox.acknowledge(ack)
        # Before anybody who waits is let go: they may look at the counters.
        self.duplicate += ack.duplicate
        for code, count in ack.reasons.items():
            self.rejected[code] = self.rejected.get(code, 0) + count
            self.warn_once(f"rejected {code}", f"tallymarkd rejected events: {code}")
        self._settle(gone)
        return self._outbox.acknowledged_seq > before

    def _settle(self, gone: list[FrozenBatch]) -> None:
        self._count_acknowledged(gone)
        self._retire_spool()
        self._release()

    def _count_acknowledged(self, gone: Iterable[FrozenBatch]) -> None:
        for batch in gone:
            self.acknowledged += batch.events
            if batch.seq <= self._spooled_seq:
                self.spooled -= batch.events
            else:
                self._intake.settle(batch.events)

    def _release(self) -> None:
        durable_seq = self._outbox.acknowledged_seq
        _let_go(self._waiting_durable, durable_seq)
        _let_go(self._waiting, max(durable_seq, self._spooled_seq))

    # Giving up.

    def abandon(self, reason: DropReason) -> None:
        """Count everything that is in memory as lost."""
        self._said.add(reason)
        self._intake.abandon_all(reason)
        self._outbox = Outbox()

    def dismiss(self) -> None:
        """Nothing more is delivered: let those who wait for it go."""
        waiting = sorted((*self._waiting, *self._waiting_durable), key=lambda each: each.seq)
        self._intake.waiters.extendleft(reversed((*waiting, *self._unnumbered)))
        self._unnumbered.clear()
        self._waiting.clear()
        self._waiting_durable.clear()
        self._intake.dismiss()

    # What is lost is said, once for each cause, by this thread: never by one that records.

    def notice_losses(self, trouble: str) -> None:
        """Look at what was dropped since the last time; log the first loss of each kind."""
        intake = self._intake
        if not intake.news:
            return
        # In this order: a loss after this line is news again.
        intake.news = False
        for reason, count in intake.dropped.items():
            if count and reason not in self._said:
                because = f": {trouble}" if trouble else ""
                self.warn_once(reason, f"events are {DROP_TEXTS[reason]}{because}")
        dropped = sum(intake.dropped[reason] for reason in REPORTED)
        self._unreported = dropped - self._reported.total()

    def warn_once(self, topic: str, text: str) -> None:
        """Log a warning, unless one on this topic was logged before."""
        if topic not in self._said:
            self._said.add(topic)
            log.warning("%s", text)


def _still_there(waiters: deque[Waiter]) -> deque[Waiter]:
    if any(waiter.abandoned for waiter in waiters):
        return deque(waiter for waiter in waiters if not waiter.abandoned)
    return waiters


def _let_go(waiters: deque[Waiter], seq: int) -> None:
    while waiters and waiters[0].seq <= seq:
        waiters.popleft().notify()
