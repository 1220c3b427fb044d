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
    """Frozen batches in order of seq, from the first that is not acknowledged."""

    def __init__(self) -> None:
        self._batches: deque[FrozenBatch] = deque()
        self._sent = 0
        self.next_seq = 1
        self.pending_events = 0
        self.pending_bytes = 0
        self.sent_bytes = 0

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def through_seq(self) -> int:
        """The newest seq that is frozen; 0 before the first."""
        return self.next_seq - 1

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
        self._batches.append(batch)
        self.next_seq += 1
        self.pending_events += batch.events
        self.pending_bytes += len(batch.frame)
        return batch

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
            self.sent_bytes += len(batch.frame)
        return taken

    def acknowledge(self, ack: Ack) -> int:
        """Forget everything through the Ack; gives how many batches that were.

        Raises ``ProtocolError`` for a seq that was never sent.
        """
        if ack.through_seq > self.next_seq - 1 - (len(self._batches) - self._sent):
            raise ProtocolError(f"cannot take an Ack through {ack.through_seq}: it was never sent")
        return self._forget(ack.through_seq)

    def resume(self, durable_seq: int) -> None:
        """Begin again on a new connection: what is durable goes, the rest is unsent.

        Raises ``ProtocolError`` when the daemon claims more than was frozen.
        """
        if durable_seq >= self.next_seq:
            raise ProtocolError(
                f"cannot resume: the daemon has seq {durable_seq}, "
                f"this producer froze {self.next_seq - 1}"
            )
        self._forget(durable_seq)
        self.rewind()

    def rewind(self) -> None:
        """After a Nack or a lost connection: everything pending is unsent."""
        self._sent = 0
        self.sent_bytes = 0

    def _forget(self, through_seq: int) -> int:
        count = 0
        while self._batches and self._batches[0].seq <= through_seq:
            batch = self._batches.popleft()
            count += 1
            self.pending_events -= batch.events
            self.pending_bytes -= len(batch.frame)
            if self._sent:
                self._sent -= 1
                self.sent_bytes -= len(batch.frame)
        return count
