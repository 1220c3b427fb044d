from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tallymark.errors import DamagedError, NewerFormatError
from tallymark.record import NO_PRODUCER, Kind, Record
from tallymarkd.core.books import Books, SkipNotice, producer_text
from tallymarkd.core.entry import Entry, Verdict, encode_entry, open_entry
from tallymarkd.core.ledger import (
    LOSSES_MAX,
    SKIP_REASONS_MAX,
    Ledger,
    Loss,
    Mark,
    ServerState,
    decode_server,
    encode_server,
)
from tallymarkd.core.project_state import snapshot
from tallymarkd.storage.sealed import seal
from tallymarkd.storage.survey import Damage
from tests.daemon_parts import (
    NOON_NS,
    PRODUCERS,
    SERVER_ID,
    UID,
    a_record,
    array,
    image,
    producer_bytes,
    run_end,
)

ALICE, BOB = PRODUCERS[:2]


def new_books(**server: Any) -> Books:
    return Books(ServerState(server_id=SERVER_ID, **server), {})


def an_entry(*events: Any, project: str = "spotter", verdicts: bytes = b"", **more: Any) -> Entry:
    return Entry(
        project=project,
        received_ns=NOON_NS,
        uid=UID,
        events=msgspec.Raw(array(*events)),
        count=len(events),
        verdicts=verdicts,
        **more,
    )


def batch_record(entry: Entry, *, lsn: int, seq: int = 1, producer: str = ALICE) -> Any:
    payload = encode_entry(entry)
    return a_record(Kind.BATCH, payload, lsn=lsn, count=entry.count, producer=producer, seq=seq)


def skip_record(*, lsn: int, from_seq: int, seq: int, events: int, producer: str = ALICE) -> Any:
    notice = SkipNotice(events=events, reason="the queue was full", project="spotter", uid=UID)
    payload = msgspec.json.encode(notice)
    return a_record(Kind.SKIP, payload, lsn=lsn, producer=producer, seq=seq, from_seq=from_seq)


@dataclass
class DurableTicket:
    """What books see of a ticket (core.books.Control)."""

    kind: int
    payload: bytes
    lsn: int
    count: int = 1
    producer: bytes = NO_PRODUCER
    seq: int = 0
    from_seq: int | None = None


def test_a_producer_as_text() -> None:
    assert producer_text(producer_bytes(ALICE)) == ALICE
    assert producer_text(NO_PRODUCER) == ""
    assert producer_text(b"") == ""


def test_a_batch_is_applied_counted_and_moves_the_mark() -> None:
    books = new_books(running_seconds=77.0)

    books.record(batch_record(an_entry(run_end(1), run_end(2)), lsn=5))

    state = snapshot(books.projects["spotter"])
    assert [run.event_id for run in state.events] == ["run-1", "run-2"]
    assert books.server.ledger == Ledger(received=2, stored=2)
    assert books.server.marks == {ALICE: Mark(1, "spotter", UID, 77.0, received=2, stored=2)}
    assert books.server.applied_lsn == books.projects["spotter"].applied_lsn == 6
    assert books.server.first_lsn == {"spotter": 5}
    assert books.server.last_lsn == {"spotter": 6}
    assert books.touched == {"spotter"}


def test_replay_gives_the_entry_so_that_its_keys_are_known_again() -> None:
    entry = an_entry(run_end(1), keys=b"8 bytes.")

    found = new_books().record(batch_record(entry, lsn=1))

    assert found is not None
    assert found.keys == b"8 bytes."


def test_the_running_daemon_and_replay_do_the_same() -> None:
    entry = an_entry(
        run_end(1), {"type": "odd"}, run_end(2), verdicts=bytes([0, 0, Verdict.DUPLICATE])
    )
    live, replayed = new_books(), new_books()

    live.batch(1, 3, producer_bytes(ALICE), 1, entry, open_entry(entry))
    replayed.record(batch_record(entry, lsn=1))

    assert image(live) == image(replayed)


def test_verdicts_go_into_the_ledger() -> None:
    books = new_books()
    verdicts = bytes(
        [Verdict.STORED, Verdict.DUPLICATE, Verdict.DUPLICATE, Verdict.TOO_LARGE, Verdict.MALFORMED]
    )

    books.record(batch_record(an_entry(*map(run_end, range(5)), verdicts=verdicts), lsn=1))
    books.record(batch_record(an_entry(run_end(9), verdicts=b"\x02"), lsn=6, seq=2))

    assert books.server.ledger == Ledger(
        received=6, stored=1, duplicate=2, rejected={"too_large": 1, "malformed": 2}
    )


def test_a_tombstone_counts_and_applies_nothing() -> None:
    books = new_books()
    entry = an_entry(run_end(1), verdicts=bytes([Verdict.BAD_BATCH]) * 3)
    entry.count = 3

    payload = encode_entry(entry)
    books.record(a_record(Kind.TOMBSTONE, payload, lsn=1, count=3, producer=ALICE, seq=1))

    assert books.server.ledger == Ledger(received=3, rejected={"bad_batch": 3})
    assert books.server.marks[ALICE].seq == 1
    assert books.server.applied_lsn == 3
    assert snapshot(books.projects["spotter"]).events == []


@pytest.mark.parametrize("behind", ["server", "project", "neither"])
def test_each_file_takes_in_what_it_has_not_seen(behind: str) -> None:
    entries = [an_entry(run_end(number)) for number in (1, 2, 3)]
    records = [batch_record(entry, lsn=n, seq=n) for n, entry in enumerate(entries, 1)]
    whole = new_books()
    for record in records:
        whole.record(record)
    partial = new_books()
    for record in records[:2]:
        partial.record(record)
    older = new_books()
    older.record(records[0])
    server = older.server if behind == "server" else partial.server
    projects = older.projects if behind == "project" else partial.projects

    books = Books(server, projects)
    for record in records:
        books.record(record)

    assert image(books) == image(whole)


def test_control_records_are_taken_in_once() -> None:
    books = new_books()
    record = skip_record(lsn=1, from_seq=1, seq=2, events=30)

    books.record(record)
    books.record(record)

    assert books.server.ledger.skipped == 30
    assert len(books.server.ledger.losses) == 1


def test_a_skip_moves_the_mark_is_counted_and_named() -> None:
    books = new_books(running_seconds=3.0)
    books.record(batch_record(an_entry(run_end(1)), lsn=1))

    books.record(skip_record(lsn=2, from_seq=2, seq=4, events=30))
    books.record(batch_record(an_entry(run_end(2)), lsn=3, seq=5))

    assert books.server.marks == {
        ALICE: Mark(5, "spotter", UID, 3.0, received=2, stored=2, skipped=30)
    }
    ledger = books.server.ledger
    assert (ledger.received, ledger.skipped) == (2, 30)
    assert (books.new_skips, books.new_losses) == (1, 0)
    assert [skipped.loss.events for skipped in books.skips] == [30]
    assert ledger.losses == [
        Loss(reason="the queue was full", producer=ALICE, from_seq=2, through_seq=4, events=30)
    ]
    assert books.new_losses == 0


def test_a_skip_may_be_the_first_that_is_heard_of_a_producer() -> None:
    books = new_books()

    books.record(skip_record(lsn=1, from_seq=1, seq=3, events=2))

    assert books.server.marks == {ALICE: Mark(3, "spotter", UID, skipped=2)}


def test_a_durable_ticket_says_the_same_as_its_record() -> None:
    record = skip_record(lsn=1, from_seq=1, seq=3, events=2)
    ticket = DurableTicket(
        Kind.SKIP, record.payload, 1, producer=record.producer, seq=3, from_seq=1
    )
    live, replayed = new_books(), new_books()

    live.control(ticket)
    replayed.record(record)

    assert image(live) == image(replayed)


def test_a_goodbye_retires_the_mark() -> None:
    books = new_books()
    books.record(batch_record(an_entry(run_end(1)), lsn=1))
    books.record(batch_record(an_entry(run_end(2)), lsn=2, producer=BOB))

    books.record(a_record(Kind.FORGET, b"", lsn=3, producer=ALICE))
    books.record(a_record(Kind.FORGET, b"", lsn=4, producer=ALICE))

    assert list(books.server.marks) == [BOB]
    assert books.server.applied_lsn == 4


def test_marks_and_stops_only_move_the_number() -> None:
    books = new_books()

    books.record(a_record(Kind.MARK, b"", lsn=1))
    books.record(a_record(Kind.STOP, b"", lsn=2))

    assert image(books) == image(new_books(applied_lsn=2))


def test_damage_is_counted_and_named() -> None:
    books = new_books()
    damage = Damage(
        segment=2,
        start=8192,
        end=8300,
        from_lsn=10,
        through_lsn=14,
        torn=False,
        reason="the payload does not verify",
        producer=producer_bytes(ALICE),
        from_seq=7,
        through_seq=7,
        events=5,
    )

    books.record(a_record(Kind.LOSS, msgspec.json.encode(damage), lsn=10, count=5))

    assert books.server.ledger.lost == 5
    assert books.server.ledger.losses == [
        Loss(
            reason="the payload does not verify",
            producer=ALICE,
            from_seq=7,
            through_seq=7,
            events=5,
            from_lsn=10,
            through_lsn=14,
        )
    ]
    assert books.server.applied_lsn == 14


def test_a_damaged_batch_is_named_once_although_its_seq_is_missing_too() -> None:
    books = new_books()
    books.record(batch_record(an_entry(run_end(1)), lsn=1))
    damage = Damage(
        segment=1,
        start=8192,
        end=8300,
        from_lsn=2,
        through_lsn=3,
        torn=False,
        reason="the payload does not verify",
        producer=producer_bytes(ALICE),
        from_seq=2,
        through_seq=2,
        events=2,
    )

    books.record(a_record(Kind.LOSS, msgspec.json.encode(damage), lsn=2, count=2))
    books.record(batch_record(an_entry(run_end(3)), lsn=4, seq=3))

    assert len(books.server.ledger.losses) == 1


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        ([(2, 3), (4, 5)], False),
        ([(4, 5), (2, 3)], False),  # in whatever order
        ([(1, 4), (3, 7)], False),
        ([(2, 2), (4, 5)], True),
        ([(2, 4)], True),
        ([(3, 5)], True),
    ],
)
def test_seqs_that_several_losses_have_told_together_are_not_told_again(
    told: list[tuple[int, int]], missing: bool
) -> None:
    """Two damaged places, next to each other."""
    books = new_books()
    books.record(batch_record(an_entry(run_end(1)), lsn=1))
    for number, (first, last) in enumerate(told, 2):
        damage = Damage(
            segment=1, start=0, end=1, from_lsn=number, through_lsn=number, torn=False,
            reason="damaged", producer=producer_bytes(ALICE), from_seq=first, through_seq=last,
        )  # fmt: skip
        books.record(a_record(Kind.LOSS, msgspec.json.encode(damage), lsn=number))
    books.record(batch_record(an_entry(run_end(6)), lsn=9, seq=6))

    reasons = [loss.reason for loss in books.server.ledger.losses]
    assert ("seqs are missing from the journal" in reasons) == missing


def test_missing_seqs_are_named() -> None:
    books = new_books()
    books.record(batch_record(an_entry(run_end(1)), lsn=1))

    books.record(batch_record(an_entry(run_end(2)), lsn=2, seq=4))

    (loss,) = books.server.ledger.losses
    assert (loss.producer, loss.from_seq, loss.through_seq) == (ALICE, 2, 3)
    assert books.server.marks[ALICE].seq == 4


def test_a_record_that_cannot_be_read_is_a_loss_and_the_next_is_taken_in() -> None:
    books = new_books()
    broken = a_record(Kind.BATCH, b"\xc1", lsn=1, count=4, producer=ALICE, seq=1)

    assert books.record(broken) is None
    books.record(broken)
    books.record(batch_record(an_entry(run_end(2)), lsn=5, seq=2, producer=BOB))

    ledger = books.server.ledger
    assert (ledger.lost, ledger.stored) == (4, 1)
    assert (ledger.losses[0].producer, ledger.losses[0].from_lsn) == (ALICE, 1)
    assert ledger.losses[0].through_lsn == 4


def test_the_newest_losses_are_named_one_by_one_and_all_are_counted() -> None:
    books = new_books()

    for number in range(1, LOSSES_MAX + 11):
        books.record(skip_record(lsn=number, from_seq=number, seq=number, events=2))

    ledger = books.server.ledger
    assert ledger.skipped == 2 * (LOSSES_MAX + 10)
    assert [loss.from_seq for loss in ledger.losses] == list(range(11, LOSSES_MAX + 11))


def test_marks_expire_by_running_time() -> None:
    books = new_books(running_seconds=10.0)
    books.record(batch_record(an_entry(run_end(1)), lsn=1))
    books.server.running_seconds = 100.0
    books.record(batch_record(an_entry(run_end(2)), lsn=2, producer=BOB))

    assert books.expire_marks(90.0) == 0
    assert books.expire_marks(50.0) == 1

    assert list(books.server.marks) == [BOB]


def test_events_without_a_producer_leave_no_mark() -> None:
    books = new_books()

    books.record(batch_record(an_entry(run_end(1)), lsn=1, seq=0, producer=""))

    assert books.server.marks == {}
    assert books.server.ledger.stored == 1


def full_server() -> ServerState:
    books = new_books(running_seconds=5.5)
    books.record(batch_record(an_entry(run_end(1), verdicts=b"\x04"), lsn=1))
    books.record(skip_record(lsn=2, from_seq=2, seq=2, events=3))
    return books.server


def test_the_server_file_comes_back_as_it_was() -> None:
    server = full_server()

    body = encode_server(server)

    assert decode_server(body) == server
    assert msgspec.json.decode(body)["format"] == 1


def test_any_changed_byte_of_the_server_file_is_noticed() -> None:
    body = encode_server(full_server())

    for at in range(len(body)):
        with pytest.raises(DamagedError):
            decode_server(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
    for end in range(len(body)):
        with pytest.raises(DamagedError):
            decode_server(body[:end])


def test_a_newer_server_file_is_refused_whatever_else_it_holds() -> None:
    newer = b"".join(seal([b'{"format":2,"server":"of tomorrow"'], b"}"))

    with pytest.raises(NewerFormatError, match="format 2"):
        decode_server(newer)


def test_a_sealed_file_that_is_no_server_file_is_damaged() -> None:
    with pytest.raises(DamagedError):
        decode_server(b"".join(seal([b'{"format":1,"server":3'], b"}")))


def loss_of(lsn: int, **fields: Any) -> Record:
    """What stands in the journal for numbers that are lost."""
    damage = Damage(
        segment=1, start=0, end=9, from_lsn=lsn, through_lsn=lsn, torn=False, reason="rot",
        events=1, **fields,
    )  # fmt: skip
    return a_record(Kind.LOSS, msgspec.json.encode(damage), lsn=lsn)


def test_new_losses_are_counted_beyond_those_that_are_named() -> None:
    books = new_books()
    for number in range(1, LOSSES_MAX + 6):
        books.record(loss_of(number))
    again = Books(books.server, {})

    again.record(loss_of(LOSSES_MAX + 6))

    assert books.new_losses == LOSSES_MAX + 5
    assert len(books.losses) == LOSSES_MAX
    assert again.new_losses == 1
    assert [loss.from_lsn for loss in again.losses] == [LOSSES_MAX + 6]


def test_what_a_client_announced_is_no_loss_of_the_disk() -> None:
    books = new_books()

    books.record(skip_record(lsn=1, from_seq=1, seq=2, events=3))

    assert (books.new_losses, books.losses) == (0, [])
    assert len(books.server.ledger.losses) == 1


def test_a_loss_that_only_a_project_has_not_seen_is_told_once() -> None:
    """The ledger had counted it; the project's state went back to an older generation."""
    books = new_books()
    for lsn in (1, 2, 3):
        books.record(batch_record(an_entry(run_end(lsn)), lsn=lsn, seq=lsn))
    older = new_books()
    older.record(batch_record(an_entry(run_end(1)), lsn=1))
    books = Books(books.server, older.projects)

    books.record(loss_of(2))
    books.record(loss_of(2))
    books.record(batch_record(an_entry(run_end(3)), lsn=3, seq=3))
    books.give_up_behind()

    assert books.new_losses == 1
    assert books.server.ledger.lost == 1
    assert books.projects["spotter"].applied_lsn == 3


def test_what_nobody_can_bring_any_more_is_told_once_and_waited_for_no_longer() -> None:
    books = new_books()
    for lsn, project in ((1, "spotter"), (2, "other"), (3, "spotter")):
        books.record(batch_record(an_entry(run_end(lsn), project=project), lsn=lsn, seq=lsn))
    older = new_books()
    older.record(batch_record(an_entry(run_end(1)), lsn=1))
    books = Books(books.server, older.projects)

    books.give_up_behind()

    assert [(loss.from_lsn, loss.through_lsn) for loss in books.losses] == [(2, 3), (1, 2)]
    assert "spotter lacks" in books.losses[0].reason
    assert books.projects["spotter"].applied_lsn == 3
    assert books.touched == {"spotter"}
    assert books.server.last_lsn == {"spotter": 3}
    books.give_up_behind()
    assert books.new_losses == 2


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (
            Loss(reason="rot", producer="p-1", from_seq=2, through_seq=3, events=1),
            "1 event of producer p-1 (seq 2 to 3): rot",
        ),
        (
            Loss(reason="rot", events=7, from_lsn=4, through_lsn=10),
            "at most 7 events at numbers 4 to 10: rot",
        ),
        (Loss(reason="gone", from_lsn=5, through_lsn=4), "an unknown number of events: gone"),
    ],
)
def test_a_loss_in_words(loss: Loss, text: str) -> None:
    assert loss.text() == text


def test_the_ledger_is_kept_for_each_producer_and_each_reason() -> None:
    books = new_books()
    verdicts = bytes([Verdict.STORED, Verdict.DUPLICATE, Verdict.TOO_LARGE, Verdict.MALFORMED])
    entry = an_entry(*(run_end(number) for number in range(4)), verdicts=verdicts)
    for lsn, producer in ((1, ALICE), (5, BOB), (9, ALICE)):
        books.record(batch_record(entry, lsn=lsn, seq=1 + lsn // 9, producer=producer))
    books.record(skip_record(lsn=13, from_seq=2, seq=2, events=7, producer=BOB))

    alice, bob = books.server.marks[ALICE], books.server.marks[BOB]
    assert (alice.received, alice.stored, alice.duplicate, alice.rejected) == (8, 2, 2, 4)
    assert (bob.received, bob.stored, bob.duplicate, bob.rejected, bob.skipped) == (4, 1, 1, 2, 7)
    ledger = books.server.ledger
    assert (ledger.received, ledger.stored, ledger.duplicate) == (12, 3, 3)
    assert ledger.rejected == {"too_large": 3, "malformed": 3}
    assert ledger.skips == {"the queue was full": 7}
    assert ledger.adds_up
    ledger.stored += 1
    assert not ledger.adds_up
    ledger.stored -= 1
    ledger.skipped += 1
    assert not ledger.adds_up


def test_reasons_without_end_are_counted_together() -> None:
    books = new_books()
    for number in range(1, SKIP_REASONS_MAX + 4):
        notice = SkipNotice(events=1, reason=f"reason {number}", project="spotter", uid=UID)
        payload = msgspec.json.encode(notice)
        books.record(a_record(Kind.SKIP, payload, lsn=number, producer=ALICE, seq=number))
    assert len(books.server.ledger.skips) == SKIP_REASONS_MAX + 1
    assert books.server.ledger.skips["other"] == 3
    assert books.server.ledger.adds_up
