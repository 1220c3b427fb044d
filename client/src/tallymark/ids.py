"""Identifiers: producers (UUIDv7) and events (a prefix and a counter)."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable


def uuid7(
    *,
    clock_ns: Callable[[], int] = time.time_ns,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> str:
    """A new UUIDv7 as text: 48 bits of milliseconds, then 74 random bits (RFC 9562)."""
    milliseconds = (clock_ns() // 1_000_000) & (2**48 - 1)
    noise = int.from_bytes(random_bytes(10), "big")
    high = (milliseconds << 16) | 0x7000 | (noise >> 68)
    low = (0b10 << 62) | (noise & (2**62 - 1))
    digits = f"{(high << 64) | low:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def event_ids(producer: str) -> Callable[[], str]:
    """Gives ids that no other process gives: ``<prefix>-<number>``.

    The prefix is the time and 48 random bits of the producer's UUIDv7. A
    counter costs a tenth of a random UUID for each event. Any thread may call
    what this returns; no number is given twice.
    """
    digits = producer.replace("-", "")
    prefix = digits[:12] + digits[-12:]
    next_number = itertools.count(1).__next__

    def new_id() -> str:
        return f"{prefix}-{next_number()}"

    return new_id


def random_fraction() -> float:
    """A random number from 0 to just below 1. (The module random takes long to import.)"""
    return int.from_bytes(os.urandom(4), "big") / 2**32
