from __future__ import annotations

from collections.abc import Collection

import pytest

from tallymark.errors import RefusedError
from tallymark.protocol.messages import Ack
from tallymarkd.core.books import Books
from tallymarkd.core.ledger import Mark, ServerState
from tallymarkd.core.producers import EngineSettings, Producers, TransientError, agree
from tests.daemon_parts import MIB, PRODUCERS, SERVER_ID, UID, FakeLink, hello, producer_bytes

ALICE, BOB, CAROL = PRODUCERS[:3]


def producers_over(
    marks: dict[str, Mark],
    *,
    producers_max: int = 10,
    mark_days_max: int = 1,
    spooled: Collection[str] | None = (),
) -> Producers:
    books = Books(ServerState(server_id=SERVER_ID, marks=marks, running_seconds=90_000.0), {})
    limits = EngineSettings(10, producers_max, mark_days_max, MIB, MIB)
    return Producers(books, limits, lambda: None if spooled is None else set(spooled))


@pytest.mark.parametrize(("least", "most"), [(1, 1), (0, 5), (1, 2)])
def test_a_protocol_is_agreed_on(least: int, most: int) -> None:
    assert agree(hello(protocol_min=least, protocol_max=most)) == 1


@pytest.mark.parametrize(("least", "most"), [(2, 3), (0, 0)])
def test_a_protocol_that_is_not_spoken_is_refused(least: int, most: int) -> None:
    with pytest.raises(RefusedError, match=f"cannot speak protocol {least} to {most}") as caught:
        agree(hello(protocol_min=least, protocol_max=most))
    assert caught.value.code == "unsupported_protocol"


def test_a_new_producer_begins_before_seq_1() -> None:
    found = producers_over({}).find(hello(ALICE), UID)

    assert (found.name, found.key) == (ALICE, producer_bytes(ALICE))
    assert (found.project, found.uid) == ("spotter", UID)
    assert (found.durable_seq, found.admitted_seq, found.settled) == (0, 0, True)


def test_a_known_producer_goes_on_at_its_mark_and_is_heard_of() -> None:
    mark = Mark(7, "spotter", UID, 1.0)

    found = producers_over({ALICE: mark}).find(hello(ALICE), UID)

    assert (found.durable_seq, found.admitted_seq) == (7, 7)
    assert mark.contact_seconds == 90_000.0


def test_a_producer_is_one_however_its_uuid_is_written() -> None:
    producers = producers_over({ALICE: Mark(7, "spotter", UID)})

    found = producers.find(hello(ALICE.upper()), UID)

    assert found.durable_seq == 7
    assert producers.find(hello(ALICE.replace("-", "")), UID) is found


@pytest.mark.parametrize(
    ("producer", "project", "uid", "code"),
    [
        ("no uuid", "spotter", UID, "protocol_error"),
        (BOB, "", UID, "wrong_project"),
        (ALICE, "other", UID, "wrong_project"),
        (ALICE, "spotter", UID + 1, "wrong_user"),
        (ALICE, "spotter", 0, "wrong_user"),
    ],
)
def test_a_producer_is_bound_to_its_user_and_project(
    producer: str, project: str, uid: int, code: str
) -> None:
    producers = producers_over({ALICE: Mark(7, "spotter", UID)})

    with pytest.raises(RefusedError) as caught:
        producers.find(hello(producer, project), uid)

    assert caught.value.code == code
    assert str(caught.value).startswith("cannot ")


def test_a_producer_is_bound_before_anything_of_it_is_durable() -> None:
    producers = producers_over({})
    producers.find(hello(ALICE), UID).link = FakeLink()

    with pytest.raises(RefusedError) as caught:
        producers.find(hello(ALICE), UID + 1)

    assert caught.value.code == "wrong_user"


def test_at_the_limit_new_producers_come_later_and_known_ones_come_in() -> None:
    producers = producers_over({ALICE: Mark(7, "spotter", UID, 30_000.0)}, producers_max=1)

    with pytest.raises(TransientError) as caught:
        producers.find(hello(BOB), UID)

    assert caught.value.nack.code == "overloaded"
    assert caught.value.nack.retry_after_seconds > 0
    assert producers.find(hello(ALICE), UID).durable_seq == 7


def test_at_the_limit_marks_that_were_not_heard_of_for_long_make_room() -> None:
    marks = {ALICE: Mark(7, "spotter", UID, 3599.0), BOB: Mark(7, "spotter", UID, 3601.0)}
    producers = producers_over(marks, producers_max=2)

    assert producers.find(hello(CAROL), UID).durable_seq == 0

    assert list(marks) == [BOB]


def test_a_mark_whose_producer_has_a_spool_does_not_expire() -> None:
    """Else what it sent before, and its spool still holds, would count again."""
    marks = {ALICE: Mark(7, "spotter", UID, 1.0), BOB: Mark(7, "spotter", UID, 1.0)}
    producers = producers_over(marks, producers_max=2, spooled={ALICE})

    producers.find(hello(CAROL), UID)

    assert list(marks) == [ALICE]


def test_while_nobody_can_tell_who_has_a_spool_no_mark_expires() -> None:
    marks = {ALICE: Mark(7, "spotter", UID, 1.0)}
    producers = producers_over(marks, producers_max=1, spooled=None)

    with pytest.raises(TransientError):
        producers.find(hello(CAROL), UID)

    assert list(marks) == [ALICE]


def test_a_mark_whose_producer_is_connected_does_not_expire() -> None:
    marks = {ALICE: Mark(7, "spotter", UID, 90_000.0)}
    producers = producers_over(marks, producers_max=1)
    producers.find(hello(ALICE), UID).link = FakeLink()
    marks[ALICE].contact_seconds = 1.0

    with pytest.raises(TransientError):
        producers.find(hello(BOB), UID)

    assert list(marks) == [ALICE]


def test_what_is_idle_is_forgotten_and_what_is_not_stays() -> None:
    producers = producers_over({})
    found = producers.find(hello(ALICE), UID)
    found.link = FakeLink()
    producers.forget_idle(found)
    assert producers.find(hello(ALICE), UID) is found

    found.link = None
    found.admitted_seq = 1
    producers.forget_idle(found)
    assert producers.find(hello(ALICE), UID) is found

    found.durable_seq = 1
    producers.forget_idle(found)
    assert producers.find(hello(ALICE), UID) is not found


def test_an_ack_takes_the_counts_with_it() -> None:
    found = producers_over({}).find(hello(ALICE), UID)
    found.durable_seq, found.stored, found.reasons = 3, 5, {"malformed": 1}
    found.rejected = 1

    assert found.take_ack() == Ack(through_seq=3, stored=5, rejected=1, reasons={"malformed": 1})
    assert found.take_ack() == Ack(through_seq=3)
