"""Queued events into batches that can be frozen."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from tallymark.events import EVENT_BYTES_MAX
from tallymark.intake import DropReason
from tallymark.protocol.outbox import BATCH_BYTES_MAX
from tallymark.texts import plain

BATCH_BYTES_TARGET = 60 * 1024
"""Size at which a batch is big enough: its price per event hardly falls any more, its
decoded events stay in a processor's cache, and no event in it can be too large."""

EVENT_BYTES_GUESS = 400.0
"""Size of an event before one was seen."""

_array16 = struct.Struct(">BH")


class Batcher:
    """Encodes events, in one call as long as nothing is wrong with any. Not thread-safe."""

    def __init__(self, batch_events_max: int) -> None:
        self._batch_events_max = batch_events_max
        self._encoder = msgspec.msgpack.Encoder(enc_hook=plain)
        self._event_bytes = EVENT_BYTES_GUESS

    @property
    def batch_events(self) -> int:
        """How many events the next batch should take, from the size of those before."""
        return max(1, min(self._batch_events_max, int(BATCH_BYTES_TARGET / self._event_bytes)))

    def encode(
        self, events: list[Any]
    ) -> tuple[list[tuple[bytes, int]], list[tuple[DropReason, str]]]:
        """Msgpack arrays with their number of events, and what was lost, with its cause.

        An event that cannot be encoded, or is larger than any daemon takes, is
        lost alone. Among many others a too large event may pass; then the
        daemon refuses it, also alone.
        """
        try:
            array = self._encoder.encode(events)
        # An event holds what its caller put there, whose encoding may fail in any way.
        except Exception:  # noqa: BLE001
            return self._one_by_one(events)
        expected = self._event_bytes * len(events)
        surprising = len(array) > EVENT_BYTES_MAX and len(array) > 2 * expected
        if surprising or len(array) > BATCH_BYTES_MAX:
            return self._one_by_one(events)
        self._learn(len(array), len(events))
        return [(array, len(events))], []

    def _learn(self, total_bytes: int, count: int) -> None:
        self._event_bytes += (total_bytes / count - self._event_bytes) / 4

    def _one_by_one(
        self, events: list[Any]
    ) -> tuple[list[tuple[bytes, int]], list[tuple[DropReason, str]]]:
        arrays: list[tuple[bytes, int]] = []
        lost: list[tuple[DropReason, str]] = []
        parts: list[bytes] = []
        size = 0
        for event in events:
            part, loss = self._encode_one(event)
            if loss is not None:
                lost.append(loss)
                continue
            if parts and size + len(part) > BATCH_BYTES_TARGET:
                arrays.append((join_array(parts), len(parts)))
                parts, size = [], 0
            parts.append(part)
            size += len(part)
        if parts:
            arrays.append((join_array(parts), len(parts)))
        for array, count in arrays:
            self._learn(len(array), count)
        return arrays, lost

    def _encode_one(self, event: Any) -> tuple[bytes, tuple[DropReason, str] | None]:
        try:
            part = self._encoder.encode(event)
        # As in encode: anything may be wrong with an event.
        except Exception as error:  # noqa: BLE001
            return b"", ("unencodable", f"{type(error).__name__}: {error}")
        if len(part) > EVENT_BYTES_MAX:
            return b"", ("too_large", f"{len(part)} bytes")
        return part, None


def join_array(parts: list[bytes]) -> bytes:
    """One msgpack array of encoded elements; at most 65535."""
    count = len(parts)
    head = bytes((0x90 | count,)) if count < 16 else _array16.pack(0xDC, count)
    return head + b"".join(parts)
