"""What a batch on its way to the journal counts for, against the limits on memory."""

from __future__ import annotations

from typing import Any

BATCH_BYTES = 1536
"""What is kept for a batch, however small: its ticket, context, decision and entry.
Measured: 1.53 KB for a batch of one empty map."""

EVENT_BYTES = 256
"""What is kept for an event, however small: the decoded one, or the fault that was found
in it. Measured: 100 to 320 bytes beside its texts, for each type and for faults."""


def weigh(events: Any, count: int) -> int:
    """Bytes that ``count`` events count for, whose msgpack array is ``events``.

    What is really taken is at most four times as much: texts stand in the array, in
    the record and in the decoded events. The array alone would bound nothing, since a
    batch may have two bytes of it.
    """
    return len(memoryview(events)) + count * EVENT_BYTES + BATCH_BYTES
