from __future__ import annotations

import msgspec
import pytest

from tallymark.record import Kind, Record
from tallymarkd.core.books import SkipNotice
from tallymarkd.core.entry import Entry, encode_entry
from tallymarkd.core.recount import Counts, Recount
from tallymarkd.storage.survey import Damage
from tests.daemon_parts import NOON_NS, PRODUCERS, UID, a_record, array, run_end

ALICE, BOB = PRODUCERS[:2]


def batch(
    lsn: int,
    events: int = 1,
    *,
    verdicts: bytes = b"",
    producer: str = ALICE,
    seq: int = 1,
    count: int | None = None,
    project: str = "spotter",
) -> Record:
    entry = Entry(
        project=project,
        received_ns=NOON_NS,
        uid=UID,
        events=msgspec.Raw(array(*map(run_end, range(events)))),
        count=events,
        verdicts=verdicts,
    )
    payload = encode_entry(entry)
    return a_record(Kind.BATCH, payload, lsn=lsn, count=count or events, producer=producer, seq=seq)


def skip(lsn: int, from_seq: int, seq: int, events: int) -> Record:
    notice = SkipNotice(events=events, reason="full", project="spotter", uid=UID)
    payload = msgspec.json.encode(notice)
    return a_record(Kind.SKIP, payload, lsn=lsn, producer=ALICE, seq=seq, from_seq=from_seq)


def recounted(*records: Record, whole: bool = True) -> Recount:
    recount = Recount(whole=whole)
    for record in records:
        recount.take(record)
    return recount


def test_every_verdict_is_counted() -> None:
    found = recounted(
        batch(1, 3),
        batch(4, 4, verdicts=bytes([0, 1, 3, 3]), seq=2),
        batch(8, 1, verdicts=bytes([4]), producer=BOB),
        skip(9, 3, 5, 7),
    )

    assert found.total == Counts(
        received=8, stored=4, duplicate=1, rejected={"invalid_field": 2, "too_large": 1}, skipped=7
    )
    alice = found.producers[ALICE]
    assert (alice.from_seq, alice.through_seq, alice.batches, alice.missing) == (1, 5, 2, [])
    assert alice.events.skipped == 7
    assert found.producers[BOB].events == Counts(received=1, rejected={"too_large": 1})
    assert found.last_lsn == {"spotter": 8}
    assert found.kinds == {"batch": 3, "skip": 1}


def test_events_without_a_producer_are_counted_in_the_total_alone() -> None:
    found = recounted(batch(1, 2, producer="", seq=0))

    assert (found.total.stored, found.producers) == (2, {})


def test_a_loss_is_counted_with_whose_it_was() -> None:
    damage = Damage(
        segment=1, start=0, end=9, from_lsn=1, through_lsn=4, torn=False, reason="rot", events=4
    )
    payload = msgspec.json.encode(damage)
    found = recounted(
        a_record(Kind.LOSS, payload, lsn=4, producer=ALICE, seq=1),
        a_record(Kind.LOSS, payload, lsn=9),
        batch(10, seq=2),
    )

    assert found.total.lost == 8
    assert found.producers[ALICE].events.lost == 4
    assert found.producers[ALICE].missing == []


@pytest.mark.parametrize(("whole", "missing"), [(True, [(1, 2), (4, 4)]), (False, [(4, 4)])])
def test_seqs_that_are_nowhere_are_named(whole: bool, missing: list[tuple[int, int]]) -> None:
    found = recounted(batch(1, seq=3), batch(2, seq=5), whole=whole)

    assert found.producers[ALICE].missing == missing


def test_after_a_goodbye_a_producer_begins_anew() -> None:
    found = recounted(
        batch(1), batch(2, seq=2), a_record(Kind.FORGET, b"", lsn=3, producer=ALICE), batch(4)
    )

    assert not found.producers[ALICE].said_goodbye
    assert (found.producers[ALICE].through_seq, found.producers[ALICE].missing) == (1, [])
    assert found.total.stored == 3


def test_a_record_that_contradicts_itself_is_lost_and_named() -> None:
    found = recounted(
        batch(1, 2, count=3),
        batch(4, 2, verdicts=b"\0", seq=2),
        a_record(Kind.BATCH, b"\xc1", lsn=6, count=5, producer=ALICE, seq=3),
        a_record(Kind.SKIP, b"{", lsn=11, producer=ALICE, seq=4, from_seq=4),
        batch(12, 1, verdicts=b"\xee", seq=5),
    )

    assert found.total.lost == 3 + 2 + 5 + 1
    assert found.total.received == 0
    assert [text.partition(":")[0] for text in found.unreadable] == [
        f"the record of number {lsn}" for lsn in (1, 4, 6, 11, 12)
    ]


def test_kinds_to_come_are_counted_by_their_number() -> None:
    record = a_record(Kind.MARK, b"", lsn=1)
    record.kind = 99

    assert recounted(record).kinds == {"kind 99": 1}


def test_differences() -> None:
    one = Counts(received=5, stored=3, rejected={"a": 2, "b": 1}, lost=1)
    other = Counts(received=2, stored=2, rejected={"a": 2, "c": 1})

    assert one.minus(other) == Counts(received=3, stored=1, rejected={"b": 1, "c": -1}, lost=1)
    copy = one.copy()
    copy.add(other)
    assert copy.received == 7
    assert one.rejected == {"a": 2, "b": 1}
