"""What a producer has frozen and not yet seen acknowledged.

A batch's seq, boundaries and bytes are fixed when it is frozen; only an
acknowledgement removes it. The outbox outlives connections: after each
``Welcome`` it goes back to the first batch that is not durable. No I/O, no
clock; not thread-safe.
"""

from __future__ import annotations

from collections import deque

import msgspec

from tallymark.errors import ProtocolError
from tallymark.protocol import messages
from tallymark.protocol.framing import FRAME_BYTES_MAX, frame
from tallymark.protocol.messages import BATCH_EVENTS_MAX, Ack, Publish, Skip

FRAME_OVERHEAD_BYTES = 256
"""Room in a frame for what Publish has beside its events."""

BATCH_BYTES_MAX = FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES
"""Most bytes of encoded events that one batch can hold."""


class FrozenBatch(msgspec.Struct, frozen=True, gc=False):
    """A batch as it will be sent, however often. ``lost`` for a Skip's events."""

    seq: int
    events: int
    lost: int
    frame: bytes


class Outbox:
    """Frozen batches in order of seq, from the first that is not acknowledged.

    Some may be elsewhere, on disk: then ``holding`` keeps what is frozen behind
    them from being sent before they were loaded.
    """

    def __init__(self, next_seq: int = 1) -> None:
        self._batches: deque[FrozenBatch] = deque()
        self._behind: deque[FrozenBatch] = deque()
        self._sent = 0
        self._sent_seq = 0
        """The highest seq sent since the last ``rewind``, or acknowledged."""
        self.holding = False
        self.next_seq = next_seq
        self.acknowledged_seq = 0
        self.pending_bytes = 0
        self.sent_bytes = 0

    def __len__(self) -> int:
        return len(self._batches) + len(self._behind)

    @property
    def through_seq(self) -> int:
        """The newest seq that is frozen; 0 before the first."""
        return self.next_seq - 1

    @property
    def newest_seq(self) -> int:
        """The newest seq of the batches that are here; 0 when there is none."""
        newest = self._behind or self._batches
        return newest[-1].seq if newest else 0

    @property
    def pending_events(self) -> int:
        """Events of all the batches that are here."""
        return sum(batch.events for batch in (*self._batches, *self._behind))

    @property
    def ready_bytes(self) -> int:
        """Bytes of the batches that may be sent: without those that are held back."""
        return self.pending_bytes - sum(len(batch.frame) for batch in self._behind)

    @property
    def in_flight(self) -> bool:
        """Whether something was sent and is not acknowledged."""
        return self._sent_seq > self.acknowledged_seq

    def freeze(self, array: bytes, count: int) -> FrozenBatch:
        """Fix the next batch: ``array`` is the msgpack array of its ``count`` events.

        At most ``BATCH_EVENTS_MAX`` events and ``BATCH_BYTES_MAX`` bytes.
        """
        if not 0 < count <= BATCH_EVENTS_MAX or len(array) > BATCH_BYTES_MAX:
            raise ProtocolError(
                f"cannot freeze a batch of {count} events and {len(array)} bytes: "
                f"at most {BATCH_EVENTS_MAX} and {BATCH_BYTES_MAX} are allowed"
            )
        publish = Publish(seq=self.next_seq, count=count, events=msgspec.Raw(array))
        return self._add(FrozenBatch(publish.seq, count, 0, frame(messages.encode(publish))))

    def skip(self, lost: int, reason: str) -> FrozenBatch:
        """Take a seq to tell the daemon of ``lost`` events that can never come."""
        seq = self.next_seq
        message = Skip(from_seq=seq, through_seq=seq, events=lost, reason=reason)
        return self._add(FrozenBatch(seq, 0, lost, frame(messages.encode(message))))

    def _add(self, batch: FrozenBatch) -> FrozenBatch:
        (self._behind if self.holding else self._batches).append(batch)
        self.next_seq += 1
        self.pending_bytes += len(batch.frame)
        return batch

    # Batches that are elsewhere.

    def load(self, batch: FrozenBatch) -> None:
        """Take one that was elsewhere; what was frozen while ``holding`` stands behind it."""
        self._batches.append(batch)
        self.pending_bytes += len(batch.frame)

    def release(self) -> None:
        """Nothing is elsewhere any more: what was held back may be sent."""
        self.holding = False
        self._batches.extend(self._behind)
        self._behind.clear()

    def newer(self, seq: int) -> list[FrozenBatch]:
        """The batches beyond a seq, in order."""
        return [batch for batch in (*self._batches, *self._behind) if batch.seq > seq]

    def put_elsewhere(self, after_seq: int, through_seq: int) -> None:
        """Batches between these seqs are kept elsewhere now, sent or not; they will be
        loaded. Those beyond them are held back."""
        self.holding = True
        moved = self.newer(after_seq)
        for batches in (self._behind, self._batches):
            while batches and batches[-1].seq > after_seq:
                batches.pop()
        self._behind.extend(batch for batch in moved if batch.seq > through_seq)
        self.pending_bytes -= sum(len(batch.frame) for batch in moved if batch.seq <= through_seq)
        while self._sent > len(self._batches):
            self._sent -= 1
        self.sent_bytes = sum(len(self._batches[n].frame) for n in range(self._sent))

    # Sending.

    def take(self, window_bytes: int) -> list[FrozenBatch]:
        """Batches to send now, so that at most ``window_bytes`` are unacknowledged.

        One batch is always allowed. They count as sent from here on.
        """
        taken: list[FrozenBatch] = []
        while self._sent < len(self._batches):
            batch = self._batches[self._sent]
            if self.sent_bytes and self.sent_bytes + len(batch.frame) > window_bytes:
                break
            taken.append(batch)
            self._sent += 1
            self._sent_seq = max(self._sent_seq, batch.seq)
            self.sent_bytes += len(batch.frame)
        return taken

    def acknowledge(self, ack: Ack) -> list[FrozenBatch]:
        """Forget everything through the Ack; gives what was here of it.

        Raises ``ProtocolError`` for a seq that was never sent.
        """
        if ack.through_seq > max(self._sent_seq, self.acknowledged_seq):
            raise ProtocolError(f"cannot take an Ack through {ack.through_seq}: it was never sent")
        return self._forget(ack.through_seq)

    def resume(self, durable_seq: int) -> list[FrozenBatch]:
        """Begin again on a new connection: what is durable goes, the rest is unsent.

        Gives what was here of the former. Raises ``ProtocolError`` when the daemon
        claims more than was frozen.
        """
        if durable_seq >= self.next_seq:
            raise ProtocolError(
                f"cannot resume: the daemon has seq {durable_seq}, "
                f"this producer froze {self.next_seq - 1}"
            )
        gone = self._forget(durable_seq)
        self.rewind()
        return gone

    def rewind(self) -> None:
        """After a Nack or a lost connection: everything pending is unsent."""
        self._sent = 0
        self._sent_seq = self.acknowledged_seq
        self.sent_bytes = 0

    def _forget(self, through_seq: int) -> list[FrozenBatch]:
        self.acknowledged_seq = max(self.acknowledged_seq, through_seq)
        gone: list[FrozenBatch] = []
        while self._batches and self._batches[0].seq <= through_seq:
            batch = self._batches.popleft()
            gone.append(batch)
            self.pending_bytes -= len(batch.frame)
            if self._sent:
                self._sent -= 1
                self.sent_bytes -= len(batch.frame)
        return gone
