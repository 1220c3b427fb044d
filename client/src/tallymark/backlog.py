"""What the sender has to deliver: from queued events to acknowledged batches.

The sender's thread alone uses it. It knows no connection: only what is
frozen, what is durable, who waits for it, and what was lost on the way.
"""

from __future__ import annotations

import logging
from collections import Counter, deque

from tallymark.batching import Batcher
from tallymark.intake import DROP_TEXTS, DropReason, Intake, Waiter
from tallymark.protocol.messages import Ack
from tallymark.protocol.outbox import FrozenBatch, Outbox

log = logging.getLogger("tallymark")

REPORTED: tuple[DropReason, ...] = ("queue_full", "unencodable", "too_large", "not_an_event")
"""Losses that the daemon is told of; after the others there is nobody to tell it."""


class Backlog:
    """Freezes, counts, and tells waiters. Not thread-safe; counters may be read anywhere."""

    def __init__(self, intake: Intake, batch_events_max: int) -> None:
        self.sent = 0
        """Events sent at least once."""
        self.acknowledged = 0
        self.duplicate = 0
        self.rejected: dict[str, int] = {}
        self._intake = intake
        self._batcher = Batcher(batch_events_max)
        self._outbox = Outbox()
        self._waiting: deque[Waiter] = deque()
        self._reported: Counter[DropReason] = Counter()
        self._unreported = 0
        self._said: set[str] = set()
        self._sent_seq = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is left to deliver, lost counts included."""
        intake = self._intake
        return not (intake.queue or len(self._outbox) or self._unreported or intake.news)

    @property
    def in_flight(self) -> bool:
        """Whether something was sent and is not acknowledged."""
        return self._outbox.sent_bytes > 0

    @property
    def first_seq(self) -> int:
        """The first seq that is not durable."""
        return self._outbox.next_seq - len(self._outbox)

    @property
    def batch_ready(self) -> bool:
        """Whether enough is queued for a full batch."""
        return len(self._intake.queue) >= self._batcher.batch_events

    # Freezing.

    def freeze_for_waiters(self) -> None:
        """Freeze all that is queued, so that waiters know which seq to wait for."""
        self._freeze(len(self._intake.queue))
        if self._waiting:
            self._waiting = deque(waiter for waiter in self._waiting if not waiter.abandoned)
        waiters = self._intake.waiters
        while waiters:
            waiter = waiters.popleft()
            waiter.seq = self._outbox.through_seq
            self._waiting.append(waiter)
        self._release()

    def freeze_to(self, window_bytes: int) -> None:
        """Freeze what the window has room for, and the counts of what was lost."""
        if self._unreported:
            self._report_losses()
        while self._intake.queue and self._outbox.pending_bytes < window_bytes:
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
            arrays, lost = self._batcher.encode(events)
            for array, number in arrays:
                self._outbox.freeze(array, number)
            for reason, cause in lost:
                self._intake.drop(reason)
                self._intake.settle(1)
                self.warn_once(reason, f"events are {DROP_TEXTS[reason]}; the first: {cause}")

    # Sending and settling.

    def take(self, window_bytes: int) -> list[FrozenBatch]:
        """Batches to send now."""
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
        before = self._outbox.pending_events
        self._outbox.resume(durable_seq)
        self._settle(before)

    def acknowledge(self, ack: Ack) -> bool:
        """Take an Ack; whether it made anything durable that was not before."""
        before = self._outbox.pending_events
        moved = self._outbox.acknowledge(ack) > 0
        # Before anybody who waits is let go: they may look at the counters.
        self.duplicate += ack.duplicate
        for code, count in ack.reasons.items():
            self.rejected[code] = self.rejected.get(code, 0) + count
            self.warn_once(f"rejected {code}", f"tallymarkd rejected events: {code}")
        self._settle(before)
        return moved

    def _settle(self, pending_before: int) -> None:
        done = pending_before - self._outbox.pending_events
        self.acknowledged += done
        self._intake.settle(done)
        self._release()

    def _release(self) -> None:
        waiting = self._waiting
        if waiting:
            durable_seq = self.first_seq - 1
            while waiting and waiting[0].seq <= durable_seq:
                waiting.popleft().notify()

    # Giving up.

    def abandon(self, reason: DropReason) -> None:
        """Count everything as lost."""
        self._said.add(reason)
        self._intake.abandon_all(reason)
        self._outbox = Outbox()

    def dismiss(self) -> None:
        """Nothing more is delivered: let those who wait for it go."""
        self._intake.waiters.extendleft(reversed(self._waiting))
        self._waiting.clear()
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
