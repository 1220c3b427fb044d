from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tallymark.errors import RefusedError
from tallymark.events import EVENT_BYTES_MAX, RunEnd, Usage
from tallymark.protocol.messages import Ack, Limits, Welcome
from tallymark.record import Kind
from tallymarkd.core.books import Books
from tallymarkd.core.engine import PostResult
from tallymarkd.core.entry import Cost, Verdict
from tallymarkd.core.ledger import Ledger, Loss, Mark, ServerState
from tallymarkd.core.producers import TransientError
from tallymarkd.storage.journal import JournalFull
from tests.daemon_parts import (
    DEADLINE_SECONDS,
    MIB,
    NOON_NS,
    PRODUCERS,
    SERVER_ID,
    UID,
    Bench,
    FakeLink,
    array,
    engine_settings,
    hello,
    image,
    publish,
    run_end,
    usage,
)

ALICE, BOB, CAROL, DAVE = PRODUCERS[:4]

MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench() -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(**settings))
        return made[-1]

    yield make
    for bench in made:
        bench.log.may_sync.set()
        bench.stop()


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench()


# Hello and Welcome.


def test_a_welcome_says_who_serves_and_within_which_limits(make_bench: MakeBench) -> None:
    client = make_bench(unacknowledged_bytes_max=3 * MIB).join()

    assert client.welcomes == [
        Welcome(
            protocol=1,
            server_id=SERVER_ID,
            durable_seq=0,
            limits=Limits(
                frame_bytes_max=MIB,
                event_bytes_max=64 * 1024,
                batch_events_max=4096,
                unacknowledged_bytes_max=3 * MIB,
            ),
            version=client.welcomes[0].version,
        )
    ]


def test_who_only_asks_needs_no_producer_and_no_project(bench: Bench) -> None:
    welcomes: list[Welcome] = []

    producer = bench.engine.open(hello("", ""), UID, FakeLink(), welcomes.append)

    assert producer is None
    assert [welcome.durable_seq for welcome in welcomes] == [0]


def test_a_protocol_that_is_not_spoken_is_refused(bench: Bench) -> None:
    with pytest.raises(RefusedError) as caught:
        bench.engine.open(
            hello(protocol_min=2, protocol_max=9), UID, FakeLink(), lambda welcome: None
        )
    assert caught.value.code == "unsupported_protocol"


def test_a_producer_stays_bound_to_user_and_project_after_it_left(bench: Bench) -> None:
    alice = bench.join(ALICE)
    alice.publish(1, run_end(1))
    bench.settle()
    alice.leave()

    with pytest.raises(RefusedError) as caught:
        bench.join(ALICE, uid=UID + 1)
    assert caught.value.code == "wrong_user"
    with pytest.raises(RefusedError) as caught:
        bench.join(ALICE, project="other")
    assert caught.value.code == "wrong_project"


def test_a_producer_that_comes_back_is_told_how_far_it_is(bench: Bench) -> None:
    alice = bench.join()
    alice.publish(1, run_end(1))
    alice.publish(2, run_end(2))
    bench.settle()
    alice.leave()

    assert [welcome.durable_seq for welcome in bench.join().welcomes] == [2]


def test_a_new_hello_fences_the_older_connection(bench: Bench) -> None:
    old = bench.join()

    new = bench.join()

    assert "taken over" in old.link.fenced
    assert new.link.fenced == ""
    old.leave()
    new.publish(1, run_end(1))
    bench.settle()
    assert new.link.acks == [Ack(through_seq=1, stored=1)]


def test_welcome_waits_for_what_the_older_connection_had_handed_in(bench: Bench) -> None:
    old = bench.join()
    old.publish(1, run_end(1))
    old.publish(2, run_end(2))

    new = bench.join()

    assert new.welcomes == []
    bench.settle()
    assert [welcome.durable_seq for welcome in new.welcomes] == [2]
    assert (new.link.said, old.link.said) == ([], [])


def test_welcome_waits_after_the_older_connection_broke_too(bench: Bench) -> None:
    old = bench.join()
    old.publish(1, run_end(1))
    old.leave()

    new = bench.join()

    assert new.welcomes == []
    bench.settle()
    assert [welcome.durable_seq for welcome in new.welcomes] == [1]


def test_welcome_is_given_when_what_was_handed_in_was_not_kept(bench: Bench) -> None:
    bench.log.full = True
    old = bench.join()
    old.publish(1, run_end(1))

    new = bench.join()
    bench.pump()

    assert [welcome.durable_seq for welcome in new.welcomes] == [0]
    assert new.link.said == []


# Publish and Ack.


def test_a_batch_is_silent_until_it_is_durable_and_then_acknowledged(bench: Bench) -> None:
    alice = bench.join()

    alice.publish(1, run_end(1), run_end(2))

    assert alice.link.said == []
    assert bench.events_of() == []
    bench.settle()
    assert alice.link.acks == [Ack(through_seq=1, stored=2)]
    assert bench.events_of() == ["run-1", "run-2"]
    assert bench.books.server.marks == {ALICE: Mark(1, "spotter", UID, received=2, stored=2)}


def test_one_cumulative_ack_answers_a_whole_commit(make_bench: MakeBench) -> None:
    bench = make_bench()
    alice, bob = bench.join(ALICE), bench.join(BOB)
    bench.log.may_sync.clear()
    alice.publish(1, run_end(1))
    assert bench.log.syncing.wait(DEADLINE_SECONDS)
    alice.publish(2, run_end(2))
    bob.publish(1, run_end(3))
    alice.publish(3, run_end(4), usage(input_tokens=-1))
    bench.log.may_sync.set()

    bench.settle()

    assert alice.link.acks == [
        Ack(through_seq=1, stored=1),
        Ack(through_seq=3, stored=2, rejected=1, reasons={"invalid_field": 1}),
    ]
    assert bob.link.acks == [Ack(through_seq=1, stored=1)]


def test_a_durable_seq_is_acknowledged_again_and_not_stored_again(bench: Bench) -> None:
    alice = bench.join()
    alice.publish(1, run_end(1))
    alice.publish(2, run_end(2))
    bench.settle()
    before = image(bench.books)

    size = alice.publish(1, run_end(1))

    assert alice.link.acks[-1] == Ack(through_seq=2)
    assert alice.link.settled_bytes >= size
    bench.settle()
    assert len(bench.log.of_kind(Kind.BATCH)) == 2
    before["server"]["applied_lsn"] += 1  # the probe's
    assert image(bench.books) == before


def test_a_seq_in_flight_is_silent_until_it_is_durable(bench: Bench) -> None:
    alice = bench.join()
    first = alice.publish(1, run_end(1))

    again = alice.publish(1, run_end(1))

    assert alice.link.said == []
    assert alice.link.settled_bytes == again
    bench.settle()
    assert alice.link.acks == [Ack(through_seq=1, stored=1)]
    assert alice.link.settled_bytes == again + first
    assert len(bench.log.of_kind(Kind.BATCH)) == 1


@pytest.mark.parametrize("seq", [2, 5])
def test_a_seq_that_is_early_is_sent_back(bench: Bench, seq: int) -> None:
    alice = bench.join()

    size = alice.publish(seq, run_end(seq))

    (nack,) = alice.link.nacks
    assert (nack.code, nack.seq) == ("gap", 1)
    assert alice.link.settled_bytes == size
    alice.publish(1, run_end(1))
    bench.settle()
    assert bench.events_of() == ["run-1"]
    assert alice.link.acks == [Ack(through_seq=1, stored=1)]


def test_rejected_events_are_told_and_consume_their_seq(bench: Bench) -> None:
    alice = bench.join()

    alice.publish(
        1,
        run_end(1),
        usage(cache_read_tokens=8),
        usage(input_tokens=-1),
        usage("i" * 513),
        usage(source="x" * EVENT_BYTES_MAX),
        usage(project="other"),
        run_end(7),
    )
    alice.publish(2, run_end(8))
    bench.settle()

    rejected = {
        "cache_exceeds_input": 1,
        "invalid_field": 1,
        "id_too_long": 1,
        "too_large": 1,
        "wrong_project": 1,
    }
    assert alice.link.acks == [Ack(through_seq=2, stored=3, rejected=5, reasons=rejected)]
    assert bench.events_of() == ["run-1", "run-7", "run-8"]
    assert bench.books.server.ledger == Ledger(received=8, stored=3, rejected=rejected)


@pytest.mark.parametrize(
    ("raw", "count"),
    [(array(run_end(1)), 2), (msgspec.msgpack.encode({"type": "usage"}), 3)],
)
def test_a_batch_that_cannot_be_split_becomes_a_tombstone(
    bench: Bench, raw: bytes, count: int
) -> None:
    alice = bench.join()
    message = msgspec.structs.replace(publish(1, run_end(1)), events=msgspec.Raw(raw), count=count)
    bench.engine.publish(alice.producer, alice.link, message, len(raw))
    alice.publish(2, run_end(2))
    bench.settle()

    tombstone, batch = bench.log.of_kind(Kind.TOMBSTONE, Kind.BATCH)
    assert (tombstone.kind, tombstone.count, tombstone.seq) == (Kind.TOMBSTONE, count, 1)
    assert raw in tombstone.payload
    assert batch.seq == 2
    assert alice.link.acks == [
        Ack(through_seq=2, stored=1, rejected=count, reasons={"bad_batch": count})
    ]
    assert bench.events_of() == ["run-2"]


def test_the_record_holds_the_payload_as_it_came_and_who_sent_it(bench: Bench) -> None:
    alice = bench.join()

    alice.publish(1, run_end(1), usage(input_tokens=-1))
    bench.settle()

    (record,) = bench.log.of_kind(Kind.BATCH)
    assert array(run_end(1), usage(input_tokens=-1)) in record.payload
    assert (record.seq, record.count) == (1, 2)
    fields = msgspec.msgpack.decode(record.payload)
    assert (fields["project"], fields["uid"]) == ("spotter", UID)
    assert fields["received_ns"] == NOON_NS
    assert fields["verdicts"] == bytes([Verdict.STORED, Verdict.INVALID_FIELD])


def test_ids_and_costs_that_were_assigned_are_in_the_record(make_bench: MakeBench) -> None:
    def price(event: Usage | RunEnd) -> Cost:
        return Cost(nanos=1500, source="here")

    bench = make_bench(price=price)
    alice = bench.join()

    alice.publish(1, run_end(event_id="", estimated_cost_usd=None))
    bench.settle()

    fields = msgspec.msgpack.decode(bench.log.of_kind(Kind.BATCH)[0].payload, strict=False)
    assert fields["ids"] == {0: "assigned-1"}
    assert fields["costs"] == {0: [1500, "here"]}
    assert bench.events_of() == ["assigned-1"]


# Keys.


def test_keys_are_known_in_flight_and_durable_and_across_producers(bench: Bench) -> None:
    alice, bob = bench.join(ALICE), bench.join(BOB)
    alice.publish(1, usage("k1"), usage("k1"))
    bob.publish(1, usage("k1"), usage("k2"))
    bench.settle()
    bob.publish(2, usage("k1"), usage("k2"), usage("k3"))
    bench.settle()

    assert alice.link.acks == [Ack(through_seq=1, stored=1, duplicate=1)]
    assert sum(ack.stored for ack in bob.link.acks) == 2
    assert sum(ack.duplicate for ack in bob.link.acks) == 3
    ledger = bench.books.server.ledger
    assert (ledger.stored, ledger.duplicate) == (3, 4)
    assert bench.books.projects["spotter"].board.input_tokens == 3 * 7


def test_projects_do_not_share_keys(bench: Bench) -> None:
    alice, bob = bench.join(ALICE, "spotter"), bench.join(BOB, "other")

    alice.publish(1, usage("k1"))
    bob.publish(1, usage("k1"))
    bench.settle()

    assert bench.books.server.ledger == Ledger(received=2, stored=2)


# Skip and Goodbye.


def test_a_skip_moves_the_mark_is_acknowledged_and_named(bench: Bench) -> None:
    alice = bench.join()
    alice.publish(1, run_end(1))
    alice.skip(2, 4, events=30, reason="the queue was full")
    alice.publish(5, run_end(5))
    bench.settle()

    assert alice.link.acks[-1].through_seq == 5
    assert bench.books.server.marks[ALICE].seq == 5
    ledger = bench.books.server.ledger
    assert (ledger.received, ledger.skipped) == (2, 30)
    assert ledger.losses == [
        Loss(reason="the queue was full", producer=ALICE, from_seq=2, through_seq=4, events=30)
    ]
    (record,) = bench.log.of_kind(Kind.SKIP)
    assert (record.from_seq, record.seq) == (2, 4)
    assert image(bench.books) == image(bench.replayed())


def test_a_skip_that_is_known_or_early_is_treated_like_a_batch(bench: Bench) -> None:
    alice = bench.join()
    alice.skip(3, 4)
    assert [(nack.code, nack.seq) for nack in alice.link.nacks] == [("gap", 1)]

    alice.skip(1, 2)
    bench.settle()
    alice.skip(1, 2)

    assert [ack.through_seq for ack in alice.link.acks] == [2, 2]
    bench.settle()
    assert len(bench.log.of_kind(Kind.SKIP)) == 1


def test_a_skip_from_before_the_mark_moves_it_over_the_rest(bench: Bench) -> None:
    alice = bench.join()
    alice.publish(1, run_end(1))
    alice.publish(2, run_end(2))
    alice.skip(1, 4, events=7, reason="spool_damaged")
    alice.publish(5, run_end(5))
    bench.settle()

    assert (alice.link.nacks, alice.link.acks[-1].through_seq) == ([], 5)
    assert bench.books.server.ledger.losses == [
        Loss(reason="spool_damaged", producer=ALICE, from_seq=3, through_seq=4, events=7)
    ]
    assert image(bench.books) == image(bench.replayed())


def test_goodbye_retires_the_mark(bench: Bench) -> None:
    alice = bench.join()
    alice.publish(1, run_end(1))
    bench.settle()

    bench.engine.goodbye(alice.producer)
    alice.leave()
    bench.settle()

    assert bench.books.server.marks == {}
    assert image(bench.books) == image(bench.replayed())
    assert [welcome.durable_seq for welcome in bench.join().welcomes] == [0]


def test_who_comes_again_before_its_mark_is_gone_waits_and_begins_anew(bench: Bench) -> None:
    """Its next batch would else be told as the first after some that are missing."""
    alice = bench.join()
    alice.publish(1, run_end(1))
    bench.settle()
    bench.engine.goodbye(alice.producer)
    alice.leave()
    again = bench.join()
    assert again.welcomes == []
    bench.settle()
    assert [welcome.durable_seq for welcome in again.welcomes] == [0]
    again.publish(1, run_end(2))
    bench.settle()

    assert again.link.acks[-1].through_seq == 1
    assert (bench.books.new_losses, bench.books.server.ledger.losses) == (0, [])
    assert image(bench.books) == image(bench.replayed())


def test_a_goodbye_that_found_no_room_keeps_the_mark(bench: Bench) -> None:
    alice = bench.join()
    alice.publish(1, run_end(1))
    bench.settle()
    bench.log.full = True
    bench.engine.goodbye(alice.producer)
    alice.leave()
    again = bench.join()
    assert again.welcomes == []
    bench.pump()

    assert [welcome.durable_seq for welcome in again.welcomes] == [1]
    bench.log.full = False
    again.publish(2, run_end(2))
    bench.settle()
    assert bench.books.server.marks[ALICE].seq == 2
    assert bench.books.new_losses == 0


@pytest.mark.parametrize("published", [False, True])
def test_goodbye_with_something_in_flight_or_nothing_at_all_retires_nothing(
    bench: Bench, published: bool
) -> None:
    alice = bench.join()
    if published:
        alice.publish(1, run_end(1))

    bench.engine.goodbye(alice.producer)
    bench.settle()

    assert bench.log.of_kind(Kind.FORGET) == []
    assert list(bench.books.server.marks) == ([ALICE] if published else [])


# Limits.


def test_at_the_limit_of_projects_a_new_one_comes_later(make_bench: MakeBench) -> None:
    bench = make_bench(projects_max=1)
    assert bench.engine.room_for(["other"])
    alice = bench.join(ALICE)
    alice.publish(1, run_end(1))
    bench.settle()

    assert not bench.engine.room_for(["other"])
    with pytest.raises(TransientError) as caught:
        bench.join(BOB, "other")

    assert caught.value.nack.code == "overloaded"
    assert "1 project" in caught.value.nack.message
    assert bench.join(CAROL, "spotter").welcomes


def test_projects_on_their_way_count_against_the_limit(make_bench: MakeBench) -> None:
    bench = make_bench(projects_max=1)
    bench.join(ALICE, "spotter").publish(1, run_end(1))

    with pytest.raises(TransientError):
        bench.join(BOB, "other").publish(1, run_end(1))
    bench.settle()

    assert list(bench.books.projects) == ["spotter"]


def test_who_is_connected_has_room_for_its_project_and_gives_it_back(
    make_bench: MakeBench,
) -> None:
    """It may send at any time, and is not asked again."""
    bench = make_bench(projects_max=2)
    alice, bob = bench.join(ALICE, "one"), bench.join(BOB, "two")
    assert bench.engine.project_count == 2
    with pytest.raises(TransientError):
        bench.join(CAROL, "three")
    assert bench.join(DAVE, "two").welcomes

    alice.leave()
    bench.join(CAROL, "three").publish(1, run_end(1))
    bob.publish(1, run_end(2))
    bench.settle()

    assert sorted(bench.books.projects) == ["three", "two"]
    assert bench.engine.project_count == 2


def test_the_projects_of_a_post_are_decided_about_together(make_bench: MakeBench) -> None:
    bench = make_bench(projects_max=2)
    assert bench.engine.room_for(["a", "b", "a"])
    assert not bench.engine.room_for(["a", "b", "c"])

    answers = bench.post(("a", array(run_end(1)), 1), ("b", array(run_end(2)), 1))

    assert bench.engine.room_for(["a", "b"])
    assert not bench.engine.room_for(["a", "c"])
    with pytest.raises(TransientError):
        bench.join(CAROL, "c")
    bench.settle()
    assert answers[0][0].stored == 2
    assert not bench.engine.room_for(["c"])


def test_a_post_that_was_not_kept_leaves_its_room(make_bench: MakeBench) -> None:
    bench = make_bench(projects_max=1)
    bench.log.full = True
    bench.post(("a", array(run_end(1)), 1))
    assert not bench.engine.room_for(["b"])
    bench.pump()
    bench.log.full = False

    assert bench.engine.room_for(["b"])
    assert bench.engine.project_count == 0


def test_a_mark_without_a_project_has_no_room_for_one(make_bench: MakeBench) -> None:
    """A skip makes a mark, and no project."""
    bench = make_bench(projects_max=1)
    alice = bench.join(ALICE, "one")
    alice.skip(1, 1)
    bench.settle()
    alice.leave()
    bench.join(BOB, "two").publish(1, run_end(1))
    bench.settle()

    with pytest.raises(TransientError):
        bench.join(ALICE, "one")


def test_at_the_limit_of_producers_a_new_one_comes_later(make_bench: MakeBench) -> None:
    bench = make_bench(producers_max=1)
    alice = bench.join(ALICE)
    alice.publish(1, run_end(1))
    bench.settle()

    with pytest.raises(TransientError) as caught:
        bench.join(BOB)

    assert caught.value.nack.code == "overloaded"
    alice.leave()
    bench.engine.goodbye(alice.producer)
    bench.settle()
    assert bench.join(BOB).welcomes


def test_too_much_unacknowledged_is_overload_until_it_is_durable(make_bench: MakeBench) -> None:
    bench = make_bench(unacknowledged_total_bytes_max=300)
    alice, bob = bench.join(ALICE), bench.join(BOB)
    size = alice.publish(1, run_end(1))
    assert not bench.engine.overloaded

    size += bob.publish(1, run_end(2), run_end(3))

    assert bench.engine.overloaded
    assert bench.engine.unacknowledged_bytes == size
    calls = alice.link.settled_calls
    bench.engine.wait_for_room(alice.link)
    bench.settle()
    assert not bench.engine.overloaded
    assert bench.engine.unacknowledged_bytes == 0
    assert alice.link.settled_calls > calls + 1  # its batch, and that there is room
    assert alice.link.settled_bytes + bob.link.settled_bytes == size


def test_who_has_left_is_not_told_that_there_is_room(make_bench: MakeBench) -> None:
    bench = make_bench(unacknowledged_total_bytes_max=1)
    alice, bob = bench.join(ALICE), bench.join(BOB)
    bob.publish(1, run_end(1))
    bench.engine.wait_for_room(alice.link)

    alice.leave()
    bench.settle()

    assert alice.link.settled_calls == 0


def test_who_was_fenced_is_not_told_that_there_is_room(make_bench: MakeBench) -> None:
    bench = make_bench(unacknowledged_total_bytes_max=1)
    alice, bob = bench.join(ALICE), bench.join(BOB)
    bob.publish(1, run_end(1))
    bench.engine.wait_for_room(alice.link)

    bench.join(ALICE)
    bench.settle()

    assert alice.link.fenced
    assert alice.link.settled_calls == 0


def test_other_limits_hold_from_the_next_newcomer_on(make_bench: MakeBench) -> None:
    bench = make_bench(producers_max=1)
    bench.join(ALICE).publish(1, run_end(1))
    bench.settle()

    bench.engine.use(engine_settings(producers_max=2, unacknowledged_total_bytes_max=1))
    bob = bench.join(BOB)
    assert bob.welcomes
    bob.publish(1, run_end(1))
    assert bench.engine.overloaded
    bench.settle()

    bench.engine.use(engine_settings(projects_max=1))
    assert not bench.engine.room_for(["other"])


# A full disk.


def test_a_full_disk_sends_clients_back_and_the_next_try_stores_once(bench: Bench) -> None:
    alice = bench.join()
    bench.log.full = True
    size = alice.publish(1, usage("k1"), run_end(1))
    size += alice.publish(2, run_end(2))
    while alice.link.settled_bytes < size:
        bench.pump()

    assert alice.link.acks == []
    assert {(nack.code, nack.seq) for nack in alice.link.nacks} == {("disk_full", 1)}
    assert all(nack.retry_after_seconds > 0 for nack in alice.link.nacks)
    assert "No space left" in str(bench.engine.disk_full)
    assert bench.books.server.ledger == Ledger()
    assert bench.engine.unacknowledged_bytes == 0

    bench.log.full = False
    alice.publish(1, usage("k1"), run_end(1))
    alice.publish(2, run_end(2))
    bench.settle()

    assert bench.engine.disk_full is None
    assert sum(ack.stored for ack in alice.link.acks) == 3
    assert alice.link.acks[-1].through_seq == 2
    assert bench.events_of() == ["run-1", "run-2"]
    assert bench.books.server.ledger == Ledger(received=3, stored=3)
    assert image(bench.books) == image(bench.replayed())


def test_keys_of_what_was_not_kept_are_new_again(bench: Bench) -> None:
    alice, bob = bench.join(ALICE), bench.join(BOB)
    bench.log.full = True
    alice.publish(1, usage("k1"))
    bench.pump()
    bench.log.full = False

    bob.publish(1, usage("k1"))
    alice.publish(1, usage("k1"))
    bench.settle()

    assert bob.link.acks == [Ack(through_seq=1, stored=1)]
    assert alice.link.acks == [Ack(through_seq=1, duplicate=1)]


def test_what_was_kept_before_the_disk_was_full_is_acknowledged(bench: Bench) -> None:
    alice = bench.join()
    bench.log.may_sync.clear()
    bench.log.syncing.clear()
    bench.join(BOB).publish(1, run_end(0))
    assert bench.log.syncing.wait(DEADLINE_SECONDS)
    alice.publish(1, run_end(1))
    alice.publish(2, run_end(2))
    bench.log.roll_at = 1
    bench.log.may_sync.set()
    bench.pump()
    bench.pump()

    assert alice.link.acks == [Ack(through_seq=1, stored=1)]
    assert [(nack.code, nack.seq) for nack in alice.link.nacks] == [("disk_full", 2)]
    alice.publish(2, run_end(2))
    bench.settle()
    assert bench.events_of() == ["run-0", "run-1", "run-2"]
    assert image(bench.books) == image(bench.replayed())


def test_nothing_overtakes_what_was_not_kept(make_bench: MakeBench) -> None:
    """The disk has room again before the client has heard that it was full."""
    bench = make_bench(commit_bytes_max=1)
    alice = bench.join()
    bench.log.full = True
    alice.publish(1, run_end(1))
    first = bench.results.get(timeout=DEADLINE_SECONDS)
    bench.log.full = False

    alice.publish(2, run_end(2))
    bench.engine.committed(first)
    bench.settle()
    assert bench.events_of() == []

    alice.publish(1, run_end(1))
    alice.publish(2, run_end(2))
    bench.settle()

    assert bench.events_of() == ["run-1", "run-2"]
    assert [record.seq for record in bench.log.of_kind(Kind.BATCH)] == [1, 2]
    assert bench.books.server.ledger.losses == []
    assert alice.link.acks[-1].through_seq == 2


def test_a_late_failure_does_not_undo_what_was_sent_again(make_bench: MakeBench) -> None:
    """Two commits fail; the client sends the first again before the second is back."""
    bench = make_bench(commit_bytes_max=1)
    alice = bench.join()
    bench.log.full = True
    alice.publish(1, run_end(1))
    alice.publish(2, run_end(2))
    first = bench.results.get(timeout=DEADLINE_SECONDS)
    second = bench.results.get(timeout=DEADLINE_SECONDS)
    bench.log.full = False

    bench.engine.committed(first)
    alice.publish(1, run_end(1))
    bench.engine.committed(second)
    bench.settle()
    goes_on_until_all_is_durable(bench, alice, {1: [run_end(1)], 2: [run_end(2)]})

    assert bench.events_of() == ["run-1", "run-2"]
    assert bench.books.server.ledger == Ledger(received=2, stored=2)


def test_a_key_of_a_batch_that_fails_late_is_not_taken_for_known(make_bench: MakeBench) -> None:
    bench = make_bench(commit_bytes_max=1)
    alice = bench.join()
    bench.log.full = True
    alice.publish(1, usage("k1"))
    alice.publish(2, usage("k2"))
    first = bench.results.get(timeout=DEADLINE_SECONDS)
    second = bench.results.get(timeout=DEADLINE_SECONDS)
    bench.log.full = False

    bench.engine.committed(first)
    alice.publish(1, usage("k1"))
    alice.publish(2, usage("k2"))
    bench.engine.committed(second)
    bench.settle()
    goes_on_until_all_is_durable(bench, alice, {1: [usage("k1")], 2: [usage("k2")]})

    assert bench.books.server.ledger == Ledger(received=2, stored=2)
    assert bench.books.projects["spotter"].board.input_tokens == 14


def goes_on_until_all_is_durable(bench: Bench, client: Any, batches: dict[int, list[Any]]) -> None:
    """What a client does after a Nack: it sends again what is not acknowledged."""
    for _ in range(5):
        durable = max([ack.through_seq for ack in client.link.acks], default=0)
        for seq, events in batches.items():
            if seq > durable:
                client.publish(seq, *events)
        bench.settle()
    assert client.link.acks[-1].through_seq == max(batches)


def test_who_had_nothing_in_flight_does_not_hear_of_a_full_disk(bench: Bench) -> None:
    alice, bob = bench.join(ALICE), bench.join(BOB)
    bob.publish(1, run_end(1))
    bench.settle()
    bench.log.full = True

    alice.publish(1, run_end(2))
    bench.pump()

    assert len(alice.link.nacks) == 1
    assert bob.link.nacks == []


def test_what_was_not_kept_of_who_has_gone_is_asked_for_again(bench: Bench) -> None:
    alice, bob = bench.join(ALICE), bench.join(BOB)
    bench.log.full = True
    alice.publish(1, usage("k1"))
    bob.publish(1, usage("k2"))
    alice.leave()
    bob.leave()
    bench.settle()
    bench.log.full = False

    for name, key in ((ALICE, "k1"), (BOB, "k2")):
        client = bench.join(name)
        assert [welcome.durable_seq for welcome in client.welcomes] == [0]
        client.publish(1, usage(key))
    bench.settle()

    assert bench.books.server.ledger == Ledger(received=2, stored=2)


def test_a_post_finds_no_keys_of_what_is_bound_to_fail(make_bench: MakeBench) -> None:
    bench = make_bench(commit_bytes_max=1)
    alice = bench.join()
    bench.log.full = True
    alice.publish(1, run_end(1))
    lost = bench.post(("spotter", array(run_end(2)), 1))
    first = bench.results.get(timeout=DEADLINE_SECONDS)
    second = bench.results.get(timeout=DEADLINE_SECONDS)
    bench.log.full = False

    bench.engine.committed(first)
    again = bench.post(("spotter", array(run_end(2)), 1))
    bench.engine.committed(second)
    bench.settle()

    assert [result for result, _ in lost] == [None]
    assert again == [(PostResult(stored=1), None)]
    assert bench.events_of() == ["run-2"]


def test_a_full_disk_is_told_once_by_the_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    alice = bench.join()
    bench.log.full = True

    for _ in range(3):
        alice.publish(1, run_end(1))
        bench.pump()

    assert caplog.text.count("No space left") == 1


# Events without a seq.


def test_a_post_is_answered_when_it_is_durable(bench: Bench) -> None:
    answers = bench.post(("spotter", array(run_end(1), run_end(1), run_end(2)), 3))

    assert answers == []
    bench.settle()
    assert answers == [(PostResult(stored=2, duplicate=1), None)]
    assert bench.events_of() == ["run-1", "run-2"]
    assert bench.books.server.marks == {}
    assert image(bench.books) == image(bench.replayed())


def test_a_post_again_is_a_duplicate_by_its_event_id(bench: Bench) -> None:
    first = bench.post(("spotter", array(run_end(1)), 1))
    second = bench.post(("spotter", array(run_end(1)), 1))
    bench.settle()
    third = bench.post(("spotter", array(run_end(1)), 1))
    bench.settle()

    assert first == [(PostResult(stored=1), None)]
    assert second == third == [(PostResult(duplicate=1), None)]
    assert bench.events_of() == ["run-1"]


def test_a_post_with_a_fault_stores_nothing_and_names_where_it_is(bench: Bench) -> None:
    answers = bench.post(
        ("spotter", array(run_end(1)), 1), ("other", array(run_end(2), usage(input_tokens=-1)), 2)
    )

    ((result, error),) = answers
    assert error is None
    (fault,) = result.faults
    assert (fault.batch, fault.index, fault.verdict) == (1, 1, Verdict.INVALID_FIELD)
    bench.settle()
    assert bench.log.of_kind(Kind.BATCH) == []
    assert bench.post(("spotter", array(run_end(1)), 1)) == []
    bench.settle()
    assert bench.events_of() == ["run-1"]


def test_a_post_to_two_projects_is_answered_once_when_both_are_durable(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(commit_bytes_max=1)
    answers = bench.post(("spotter", array(run_end(1)), 1), ("other", array(run_end(2)), 1))

    bench.pump()
    assert answers == []
    bench.settle()

    assert answers == [(PostResult(stored=2), None)]
    assert (bench.events_of("spotter"), bench.events_of("other")) == (["run-1"], ["run-2"])


@pytest.mark.parametrize("commit_bytes_max", [1, 2 * MIB])
def test_a_post_that_cannot_be_kept_is_answered_once(
    make_bench: MakeBench, commit_bytes_max: int
) -> None:
    bench = make_bench(commit_bytes_max=commit_bytes_max)
    bench.log.full = True

    batches = [(f"project-{number}", array(run_end(number)), 1) for number in range(3)]
    answers = bench.post(*batches)
    bench.settle()

    ((result, error),) = answers
    assert result is None
    assert isinstance(error, JournalFull)
    bench.log.full = False
    again = bench.post(*batches)
    bench.settle()
    assert again == [(PostResult(stored=3), None)]


# Probes, and what else there is.


def test_a_probe_goes_through_the_commit_path(bench: Bench) -> None:
    back: list[Exception | None] = []
    bench.engine.probe(back.append)
    bench.pump()

    assert back == [None]
    assert [record.kind for record in bench.log.records] == [Kind.MARK]
    assert bench.books.server.ledger == Ledger()

    bench.log.full = True
    bench.engine.probe(back.append)
    bench.pump()
    assert isinstance(back[1], JournalFull)


def test_every_commit_is_noted(bench: Bench) -> None:
    bench.join().publish(1, run_end(1))
    assert bench.notes == 0

    bench.pump()

    assert bench.notes == 1


def test_who_has_gone_is_not_answered_and_his_events_are_kept(bench: Bench) -> None:
    alice = bench.join()
    alice.publish(1, run_end(1))

    alice.leave()
    bench.settle()

    assert alice.link.acks == []
    assert bench.events_of() == ["run-1"]


def test_state_and_ledger_are_what_the_journal_says(make_bench: MakeBench) -> None:
    bench = make_bench(commit_bytes_max=400)
    clients = [bench.join(name, f"project-{number % 2}") for number, name in enumerate(PRODUCERS)]
    for seq in range(1, 6):
        for number, client in enumerate(clients):
            key = f"k{(seq * number) % 7}"
            client.publish(seq, run_end(seq * 100 + number), usage(key), {"type": "odd"},
                           usage(input_tokens=-seq))  # fmt: skip
    bench.post(("project-0", array(run_end(1)), 1))
    clients[3].skip(6, 8)
    bench.settle()
    bench.engine.goodbye(clients[4].producer)
    bench.settle()

    assert image(bench.books) == image(bench.replayed())
    assert bench.books.server.ledger.received == 5 * 4 * len(clients) + 1


def test_marks_that_were_not_heard_of_for_long_expire(make_bench: MakeBench) -> None:
    """Else a daemon that saw many clients die would take no new ones, ever."""
    day = 86_400.0
    books = Books(
        ServerState(
            server_id=SERVER_ID,
            running_seconds=31 * day,
            marks={
                ALICE: Mark(1, "spotter", UID, 0.5 * day),
                BOB: Mark(1, "spotter", UID, 5 * day),
            },
        ),
        {},
    )
    bench = make_bench(books=books, producers_max=2, mark_days_max=30)

    assert bench.join(CAROL).welcomes
    assert list(books.server.marks) == [BOB]
