"""Identifiers: form, order, and that none is given twice."""

from __future__ import annotations

import threading
import uuid

from tallymark.ids import event_ids, uuid7


def test_a_uuid7_has_time_version_and_variant() -> None:
    made = uuid.UUID(uuid7(clock_ns=lambda: 0x0123456789AB * 1_000_000 + 999_999))
    assert made.hex[:12] == "0123456789ab"
    assert made.version == 7
    assert made.variant == uuid.RFC_4122


def test_every_random_bit_is_used() -> None:
    ones = uuid.UUID(uuid7(clock_ns=lambda: 0, random_bytes=lambda count: b"\xff" * count))
    zeros = uuid.UUID(uuid7(clock_ns=lambda: 0, random_bytes=bytes))
    assert (ones.int ^ zeros.int).bit_count() == 74


def test_uuids_are_in_order_of_time_and_differ_within_it() -> None:
    assert uuid7(clock_ns=lambda: 10**15) < uuid7(clock_ns=lambda: 10**15 + 10**6)
    assert len({uuid7(clock_ns=lambda: 10**15) for _ in range(1000)}) == 1000


def test_event_ids_begin_with_their_producer() -> None:
    new = event_ids("01234567-89ab-7cde-8f01-23456789abcd")
    assert [new(), new()] == ["0123456789ab23456789abcd-1", "0123456789ab23456789abcd-2"]


def test_producers_of_one_moment_give_other_ids() -> None:
    first = event_ids(uuid7(clock_ns=lambda: 10**15))
    second = event_ids(uuid7(clock_ns=lambda: 10**15))
    assert first() != second()


def test_threads_share_a_counter() -> None:
    new = event_ids(uuid7())
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.extend([new() for _ in range(2000)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8000
