from __future__ import annotations

import msgspec
import pytest

from tallymark.record import NO_PRODUCER, Kind, Record
from tallymarkd.storage.damage import (
    LSN_JUMP,
    Damage,
    events_of,
    head_of,
    known_damage,
    loss_record,
    torn_damage,
    unknown_damage,
)
from tallymarkd.storage.segment import Gap

PRODUCER = bytes(range(16))


def record(lsn: int, *, kind: Kind = Kind.BATCH, count: int = 3, offset: int = 9000) -> Record:
    return Record(kind, lsn, count, 5, PRODUCER, 9, 8, 0, b"", 0, offset)


@pytest.mark.parametrize(
    ("kind", "events"),
    [(Kind.BATCH, 3), (Kind.TOMBSTONE, 3), (Kind.SKIP, 0), (Kind.MARK, 0), (Kind.LOSS, 0)],
)
def test_only_batches_and_tombstones_carry_events(kind: Kind, events: int) -> None:
    assert events_of(record(10, kind=kind)) == events


def test_what_a_header_tells_of_a_lost_record() -> None:
    gap = Gap(9000, 9080, record(10), "rot")
    assert head_of(gap) == record(10)
    assert known_damage(2, gap, record(10)) == Damage(
        segment=2, start=9000, end=9080, from_lsn=10, through_lsn=12, torn=False, reason="rot",
        producer=PRODUCER, from_seq=8, through_seq=9, events=3,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("through", "counted", "numbers", "events"),
    [
        (12, True, 3, 3),
        (12, False, 3, 0),
        (9, True, 0, 0),
        (5, True, 0, 0),
        (10 + LSN_JUMP - 2, True, LSN_JUMP - 1, LSN_JUMP - 1),
        (10 + LSN_JUMP - 1, True, LSN_JUMP, 0),
    ],
)
def test_how_many_events_unknown_bytes_may_have_been(
    through: int, counted: bool, numbers: int, events: int
) -> None:
    damage = unknown_damage(2, 0, 50, 10, through, "rot", counted=counted)
    assert (damage.numbers, damage.events, damage.torn) == (numbers, events, False)


def test_a_torn_tail_of_one_record_tells_whose_it_was() -> None:
    torn = torn_damage(2, Gap(9000, 9080, record(10), "rot"), [], 9)
    assert (torn.producer, torn.from_seq, torn.through_seq) == (PRODUCER, 8, 9)
    assert (torn.from_lsn, torn.through_lsn, torn.events, torn.torn) == (10, 12, 3, True)


def test_a_torn_tail_of_more_names_nobody() -> None:
    rest: list[Record | Gap] = [record(20, offset=9100), Gap(9180, 9300, None, "rot too")]
    torn = torn_damage(2, Gap(9000, 9080, None, "rot"), [record(10), *rest], 9)
    assert (torn.producer, torn.through_seq, torn.events) == (b"", 0, 6)
    assert (torn.start, torn.end, torn.through_lsn, torn.reason) == (9000, 9300, 22, "rot")


def test_a_loss_takes_the_last_number_of_what_is_lost() -> None:
    damage = unknown_damage(2, 9000, 9080, 10, 12, "rot")
    loss = loss_record(damage, 9)
    assert (loss.kind, loss.lsn, loss.count, loss.last_lsn, loss.durable_lsn) == (
        Kind.LOSS,
        12,
        1,
        12,
        9,
    )
    assert (loss.producer, loss.offset) == (NO_PRODUCER, 9000)
    assert msgspec.json.decode(loss.payload, type=Damage) == damage
