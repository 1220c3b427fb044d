from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tallymark.protocol.framing import PREFACE
from tallymark.protocol.messages import (
    Ack,
    Goodbye,
    Health,
    HealthReport,
    Nack,
    Query,
    Reason,
    Refused,
    Reply,
    Skip,
    Welcome,
)
from tallymark.record import Kind
from tallymarkd.core.weight import BATCH_BYTES, weigh
from tallymarkd.server.conversation import (
    QUESTIONS_MAX,
    REPLY_BYTES_MAX,
    WRITE_BYTES_MAX,
    Conversation,
)
from tallymarkd.server.desk import LARGE_FRAME_BYTES, Condition, Desk
from tests.conversation_parts import (
    FakeAnswers,
    FakeTransport,
    make_desk,
    messages_in,
    opening,
    wire,
)
from tests.daemon_parts import (
    DEADLINE_SECONDS,
    PRODUCERS,
    UID,
    Bench,
    publish,
    run_end,
    until,
)

ALICE, BOB = PRODUCERS[:2]
KIB = 1024


class Talk:
    """One conversation over a fake transport."""

    def __init__(self, desk: Desk, uid: int = UID) -> None:
        self.closed: list[Conversation] = []
        self.conversation = Conversation(desk, uid, self.closed.append)
        self.transport = FakeTransport()
        self.conversation.connection_made(self.transport)
        self._read = 0
        self._welcome = b""

    def send(self, data: bytes) -> None:
        assert self.transport.is_reading(), "a paused transport gives no data"
        self.conversation.data_received(data)

    def says(self) -> list[Any]:
        """What was written since the last look."""
        data = bytes(self.transport.written[self._read :])
        self._read = len(self.transport.written)
        if self._read > len(data):
            # A decoder of its own begins with a Welcome.
            data = self._welcome + data
            return messages_in(data)[1:]
        found = messages_in(data)
        if found and isinstance(found[0], Welcome):
            self._welcome = wire(found[0])
        return found

    def open(self, producer: str = ALICE, project: str = "spotter") -> Talk:
        self.send(opening(producer, project))
        (welcome,) = self.says()
        assert isinstance(welcome, Welcome)
        return self

    def lose(self) -> None:
        """The connection ends."""
        self.conversation.connection_lost(None)


Open = Callable[..., Desk]


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as found:
        yield found


def run(test: Callable[[], Any]) -> None:
    """Run a test inside a loop."""

    async def main() -> None:
        await test()

    asyncio.run(main())


def test_hello_publish_ack_goodbye(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench)).open()

        talk.send(wire(publish(1, run_end(1)), publish(2, run_end(2), run_end(3))))
        assert talk.says() == []
        bench.settle()
        acks = talk.says()
        assert all(isinstance(ack, Ack) for ack in acks)
        assert (acks[-1].through_seq, sum(ack.stored for ack in acks)) == (2, 3)

        talk.send(wire(Goodbye()))
        assert talk.transport.closed
        talk.lose()
        bench.settle()
        assert bench.books.server.marks == {}
        assert talk.closed == [talk.conversation]

    run(test)


@pytest.mark.parametrize("size", [1, 3, 50])
def test_bytes_may_come_in_any_pieces(bench: Bench, size: int) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        data = opening() + wire(publish(1, run_end(1)), publish(2, run_end(2)))

        for at in range(0, len(data), size):
            talk.send(data[at : at + size])
        bench.settle()

        welcome, *acks = talk.says()
        assert isinstance(welcome, Welcome)
        assert acks[-1].through_seq == 2

    run(test)


@pytest.mark.parametrize(
    ("data", "code", "named"),
    [
        (b"\xc1TM\x02", "protocol_error", "preface"),
        (PREFACE + b"\xff\xff\xff\xff", "protocol_error", "frame of"),
        (PREFACE + b"\x00\x00\x00\x00", "protocol_error", "frame of 0"),
        (PREFACE + b"\x01\x00\x00\x00\xc1", "protocol_error", "understand"),
        (PREFACE + wire(publish(1, run_end(1))), "protocol_error", "without a Hello"),
        (opening() + opening()[4:], "protocol_error", "second Hello"),
        (opening("") + wire(publish(1, run_end(1))), "protocol_error", "no producer"),
        (opening(protocol_min=2, protocol_max=7), "unsupported_protocol", "2 to 7"),
        (opening("no uuid"), "protocol_error", "no UUID"),
        (opening(ALICE, ""), "wrong_project", "without a project"),
        (
            opening() + wire(Skip(from_seq=3, through_seq=2, events=1, reason="")),
            "protocol_error",
            "backwards",
        ),
    ],
)
def test_who_breaks_the_protocol_is_told_why_and_closed(
    bench: Bench, data: bytes, code: str, named: str
) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))

        talk.send(data)

        refused = talk.says()[-1]
        assert isinstance(refused, Refused)
        assert refused.code == code
        assert named in refused.message
        assert talk.transport.closed
        talk.lose()
        assert bench.log.of_kind(Kind.BATCH, Kind.SKIP) == []

    run(test)


def test_a_producer_of_another_user_or_project_is_refused(bench: Bench) -> None:
    async def test() -> None:
        desk = make_desk(bench)
        Talk(desk).open().send(wire(publish(1, run_end(1))))
        bench.settle()

        stranger = Talk(desk, uid=UID + 1)
        stranger.send(opening())
        assert [message.code for message in stranger.says()] == ["wrong_user"]
        assert stranger.transport.closed
        moved = Talk(desk)
        moved.send(opening(project="other"))
        assert [message.code for message in moved.says()] == ["wrong_project"]

    run(test)


def test_events_behind_a_refused_hello_are_not_taken(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))

        talk.send(opening(ALICE, "") + wire(publish(1, run_end(1)), Health(id=1), Goodbye()))

        assert len(talk.says()) == 1
        bench.settle()
        assert bench.books.projects == {}

    run(test)


def test_at_a_limit_the_conversation_ends_with_a_nack() -> None:
    async def test() -> None:
        with Bench(producers_max=1) as bench:
            desk = make_desk(bench)
            Talk(desk).open().send(wire(publish(1, run_end(1))))
            bench.settle()

            talk = Talk(desk)
            talk.send(opening(BOB))

            (nack,) = talk.says()
            assert isinstance(nack, Nack)
            assert nack.code == "overloaded"
            assert talk.transport.closed

    run(test)


def test_a_new_hello_fences_the_older_conversation(bench: Bench) -> None:
    async def test() -> None:
        desk = make_desk(bench)
        old = Talk(desk).open()
        old.send(wire(publish(1, run_end(1))))

        new = Talk(desk)
        new.send(opening())

        (refused,) = old.says()
        assert (refused.code, old.transport.closed) == ("fenced", True)
        old.lose()
        assert new.says() == []
        bench.settle()
        (welcome,) = new.says()
        assert welcome.durable_seq == 1
        new.send(wire(publish(2, run_end(2))))
        bench.settle()
        assert [ack.through_seq for ack in new.says()] == [2]

    run(test)


def test_events_before_the_welcome_are_not_taken(bench: Bench) -> None:
    async def test() -> None:
        desk = make_desk(bench)
        Talk(desk).open().send(wire(publish(1, run_end(1))))

        hasty = Talk(desk)
        hasty.send(opening() + wire(publish(2, run_end(2))))

        (refused,) = hasty.says()
        assert refused.code == "protocol_error"
        assert "before the Welcome" in refused.message
        hasty.lose()
        bench.settle()
        assert bench.events_of() == ["run-1"]

    run(test)


# What is due at the end.


def test_after_eof_the_replies_that_are_due_are_sent(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench)).open()
        talk.send(wire(publish(1, run_end(1))))

        assert talk.conversation.eof_received()
        assert not talk.transport.closed
        bench.settle()

        assert [ack.through_seq for ack in talk.says()] == [1]
        assert talk.transport.closed

    run(test)


def test_after_eof_with_nothing_due_the_socket_closes(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench)).open()

        assert not talk.conversation.eof_received()

    run(test)


def test_after_eof_a_nack_is_a_reply_too(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench)).open()
        bench.log.full = True
        talk.send(wire(publish(1, run_end(1))))
        assert talk.conversation.eof_received()

        bench.settle()
        await until(lambda: talk.transport.closed, "the close")

        assert {type(message) for message in talk.says()} == {Nack}

    run(test)


def test_after_eof_an_ack_and_a_nack_of_one_commit_are_both_sent(bench: Bench) -> None:
    async def test() -> None:
        desk = make_desk(bench)
        talk = Talk(desk).open()
        bench.log.may_sync.clear()
        bench.log.syncing.clear()
        Talk(desk).open(BOB).send(wire(publish(1, run_end(0))))
        assert bench.log.syncing.wait(DEADLINE_SECONDS)
        talk.send(wire(publish(1, run_end(1)), publish(2, run_end(2))))
        bench.log.roll_at = 1
        assert talk.conversation.eof_received()

        bench.log.may_sync.set()
        bench.settle()
        await until(lambda: talk.transport.closed, "the close")

        said = talk.says()
        assert {type(message) for message in said} == {Ack, Nack}
        assert [ack.through_seq for ack in said if isinstance(ack, Ack)] == [1]

    run(test)


def test_after_eof_a_welcome_that_waits_is_a_reply_too(bench: Bench) -> None:
    async def test() -> None:
        desk = make_desk(bench)
        Talk(desk).open().send(wire(publish(1, run_end(1))))
        talk = Talk(desk)
        talk.send(opening())

        assert talk.conversation.eof_received()
        bench.settle()

        assert [message.durable_seq for message in talk.says()] == [1]
        assert talk.transport.closed

    run(test)


def test_after_eof_an_answer_to_a_question_is_sent(bench: Bench) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        talk = Talk(make_desk(bench, answers)).open("", "")
        talk.send(wire(Health(id=1, deep=True), Health(id=2, deep=True)))
        assert talk.conversation.eof_received()

        answers.waiting[0](answers.condition)
        assert not talk.transport.closed
        answers.waiting[1](answers.condition)

        assert [report.id for report in talk.says()] == [1, 2]
        assert talk.transport.closed

    run(test)


def test_goodbye_waits_for_what_is_in_flight_and_keeps_the_mark(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench)).open()
        talk.send(wire(publish(1, run_end(1)), Goodbye()))
        assert not talk.transport.closed

        bench.settle()

        assert [ack.through_seq for ack in talk.says()] == [1]
        assert talk.transport.closed
        assert list(bench.books.server.marks) == [ALICE]

    run(test)


def test_a_broken_connection_leaves_its_events_on_their_way(bench: Bench) -> None:
    async def test() -> None:
        desk = make_desk(bench)
        talk = Talk(desk).open()
        talk.send(wire(publish(1, run_end(1))))

        talk.lose()
        bench.settle()

        assert bench.events_of() == ["run-1"]
        talk = Talk(desk)
        talk.send(opening())
        assert [welcome.durable_seq for welcome in talk.says()] == [1]

    run(test)


def test_a_broken_connection_is_not_kept_in_memory(bench: Bench) -> None:
    async def test() -> None:
        desk = make_desk(bench)
        talk = Talk(desk).open()
        talk.send(wire(publish(1, run_end(1))))
        talk.lose()
        bench.settle()
        gone = weakref.ref(talk.conversation)

        del talk
        gc.collect()

        assert gone() is None

    run(test)


def test_when_the_daemon_stops_it_says_goodbye_behind_the_last_ack(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench)).open()
        talk.send(wire(publish(1, run_end(1))))

        talk.conversation.stop_reading()
        assert not talk.transport.is_reading()
        bench.settle()
        talk.conversation.say_goodbye("the daemon is stopping")

        ack, goodbye = talk.says()
        assert ack.through_seq == 1
        assert isinstance(goodbye, Goodbye)
        assert goodbye.reason == "the daemon is stopping"
        assert talk.transport.closed

    run(test)


@pytest.mark.parametrize("length", [0, 2, 4, 10])
def test_who_has_not_finished_its_hello_gets_a_goodbye_too(bench: Bench, length: int) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        talk.send(opening()[:length])
        talk.conversation.stop_reading()

        talk.conversation.say_goodbye("the daemon is stopping")

        assert talk.says() == [Goodbye(reason="the daemon is stopping")]
        assert talk.transport.closed

    run(test)


# Questions.


def test_questions_are_answered_from_durable_state(bench: Bench) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        answers.states["spotter"] = b'{"project_name":"spotter"}'
        talk = Talk(make_desk(bench, answers)).open("", "")

        talk.send(
            wire(
                Query(id=1, what="projects"),
                Query(id=2, what="state", project="spotter"),
                Query(id=3, what="state", project="nowhere"),
            )
        )

        assert talk.says() == [
            Reply(id=1, body=b'["every project"]'),
            Reply(id=2, body=b'{"project_name":"spotter"}'),
            Reply(id=3, body=b"", error="cannot show project 'nowhere': nothing is known of it"),
        ]

    run(test)


@pytest.mark.parametrize("size", [1, REPLY_BYTES_MAX, REPLY_BYTES_MAX + 1, 5 * REPLY_BYTES_MAX])
def test_a_long_answer_comes_in_pieces(bench: Bench, size: int) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        answers.states["spotter"] = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        talk = Talk(make_desk(bench, answers)).open("", "")

        talk.send(wire(Query(id=7, what="state", project="spotter")))

        pieces = talk.says()
        assert b"".join(piece.body for piece in pieces) == answers.states["spotter"]
        assert [piece.more for piece in pieces] == [True] * (len(pieces) - 1) + [False]
        assert {piece.id for piece in pieces} == {7}
        assert len(pieces) == -(-size // REPLY_BYTES_MAX)

    run(test)


def test_history_is_held_until_the_conversation_ends(bench: Bench) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        talk = Talk(make_desk(bench, answers)).open("", "")
        talk.send(wire(Query(id=5, what="hold")))
        assert talk.says() == []

        (uid, done) = answers.holds[0]
        done(b'{"durable_lsn":7}', "")
        assert uid == UID
        assert talk.says() == [Reply(id=5, body=b'{"durable_lsn":7}')]
        assert answers.released == []

        talk.lose()
        assert answers.released == [UID]

    run(test)


def test_a_second_hold_takes_the_place_of_the_first(bench: Bench) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        talk = Talk(make_desk(bench, answers)).open("", "")
        talk.send(wire(Query(id=1, what="hold"), Query(id=2, what="hold")))
        assert len(answers.holds) == 2
        assert len(answers.released) == 1

        talk.lose()
        assert len(answers.released) == 2

    run(test)


def test_who_hung_up_before_the_hold_was_there_gets_no_answer(bench: Bench) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        talk = Talk(make_desk(bench, answers)).open("", "")
        talk.send(wire(Query(id=1, what="hold")))
        # Its end of file: the answer is still due.
        assert talk.conversation.eof_received()
        answers.holds[0][1](b"", "cannot hold history")
        assert talk.says() == [Reply(id=1, body=b"", error="cannot hold history")]
        assert talk.transport.closed

    run(test)


def test_health_says_how_the_daemon_is(bench: Bench) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        reason = Reason(code="disk_low", message="little is free", remedy="free space")
        answers.condition = Condition("degraded", [reason], {"version": "9"})
        talk = Talk(make_desk(bench, answers)).open("", "")

        talk.send(wire(Health(id=4)))

        assert talk.says() == [
            HealthReport(id=4, status="degraded", reasons=[reason], report={"version": "9"})
        ]

    run(test)


def test_an_answer_that_comes_after_the_end_goes_nowhere(bench: Bench) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        talk = Talk(make_desk(bench, answers)).open("", "")
        talk.send(wire(Health(id=1, deep=True)))
        talk.lose()

        answers.waiting[0](answers.condition)

        assert talk.says() == []

    run(test)


# Reading pauses.


def test_reading_pauses_while_too_much_is_unacknowledged(bench: Bench) -> None:
    async def test() -> None:
        first, second = publish(1, run_end(1)), publish(2, run_end(2))
        size = weigh(first.events, 1)
        talk = Talk(make_desk(bench, unacknowledged_bytes_max=2 * size)).open()

        talk.send(wire(first))
        assert talk.transport.reading
        talk.send(wire(second))
        assert not talk.transport.reading

        bench.settle()
        assert talk.transport.reading
        assert talk.says()[-1].through_seq == 2

    run(test)


def test_skips_count_against_the_limit(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench, unacknowledged_bytes_max=10 * BATCH_BYTES)).open()

        skips = [Skip(from_seq=n, through_seq=n, events=1, reason="full") for n in range(1, 11)]
        talk.send(wire(*skips))
        assert not talk.transport.reading

        bench.settle()
        assert talk.transport.reading

    run(test)


def test_a_small_batch_counts_for_what_is_kept_of_it(bench: Bench) -> None:
    """The bytes of its events alone would let any number of them in."""

    async def test() -> None:
        talk = Talk(make_desk(bench, unacknowledged_bytes_max=100 * KIB)).open()

        for seq in range(1, 101):
            if talk.transport.reading:
                last = seq
                talk.send(wire(publish(seq, {})))

        assert 40 < last < 70
        bench.settle()
        assert talk.transport.reading

    run(test)


def test_questions_that_wait_for_the_disk_have_a_limit(bench: Bench) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        talk = Talk(make_desk(bench, answers)).open()
        talk.send(wire(*[Health(id=number, deep=True) for number in range(QUESTIONS_MAX - 1)]))
        assert talk.transport.reading
        talk.send(wire(Query(id=99, what="hold")))
        assert not talk.transport.reading

        answers.waiting[0](answers.condition)
        assert talk.transport.reading
        answers.holds[0][1](b"{}", "")
        assert talk.transport.reading

    run(test)


def test_reading_pauses_while_the_daemon_is_overloaded() -> None:
    async def test() -> None:
        size = weigh(publish(1, run_end(1)).events, 1)
        with Bench(unacknowledged_total_bytes_max=2 * size) as bench:
            desk = make_desk(bench)
            alice, bob = Talk(desk).open(ALICE), Talk(desk).open(BOB)

            alice.send(wire(publish(1, run_end(1))))
            bob.send(wire(publish(1, run_end(2))))

            assert alice.transport.reading  # it has sent before there was too much
            assert not bob.transport.reading
            alice.send(wire(publish(2, run_end(3))))
            assert not alice.transport.reading

            bench.settle()
            assert alice.transport.reading
            assert bob.transport.reading

    run(test)


def test_reading_pauses_while_the_client_does_not_read(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench)).open()

        talk.conversation.pause_writing()
        assert not talk.transport.reading

        talk.conversation.resume_writing()
        assert talk.transport.reading

    run(test)


def test_reading_resumes_only_when_every_cause_is_gone(bench: Bench) -> None:
    async def test() -> None:
        size = weigh(publish(1, run_end(1)).events, 1)
        talk = Talk(make_desk(bench, unacknowledged_bytes_max=size)).open()
        talk.send(wire(publish(1, run_end(1))))
        talk.conversation.pause_writing()

        bench.settle()
        assert not talk.transport.reading

        talk.conversation.resume_writing()
        assert talk.transport.reading

    run(test)


def test_a_client_that_never_reads_its_replies_is_cut_off(bench: Bench) -> None:
    """Many questions in one go: the answers must not pile up without end."""

    async def test() -> None:
        answers = FakeAnswers()
        answers.states["spotter"] = bytes(4 * 1024 * 1024)
        talk = Talk(make_desk(bench, answers)).open("", "")
        write = talk.transport.write

        def pile_up(data: Any) -> None:
            talk.transport.buffered_bytes += len(data)
            assert talk.transport.buffered_bytes < 2 * WRITE_BYTES_MAX
            write(b"")

        talk.transport.write = pile_up  # type: ignore[method-assign]  # keeps the count alone
        question = Query(id=1, what="state", project="spotter")
        talk.send(wire(*[question] * 1000))

        assert talk.transport.aborted

    run(test)


# Frames take memory and time.


def half_a_large_frame(size: int = 4 * LARGE_FRAME_BYTES) -> tuple[bytes, bytes]:
    """A large Publish, cut behind its length and first bytes."""
    frame = wire(publish(1, run_end(1, error_message="x" * size)))
    return frame[:100], frame[100:]


def test_large_frames_wait_for_memory_first_come_first_served(bench: Bench) -> None:
    async def test() -> None:
        begin, rest = half_a_large_frame()
        desk = make_desk(bench, frame_pool_bytes_max=len(rest) + 100)
        talks = [Talk(desk).open(producer) for producer in PRODUCERS[:4]]

        for talk in talks:
            talk.send(begin)
        assert [talk.transport.reading for talk in talks] == [True, False, False, False]

        talks[2].lose()
        talks[0].send(rest)
        assert talks[1].transport.reading
        assert not talks[3].transport.reading

        talks[1].send(rest)
        assert talks[3].transport.reading
        talks[3].send(rest)
        bench.settle()
        assert bench.books.server.ledger.received == 3

    run(test)


def test_small_frames_need_no_memory_of_the_pool(bench: Bench) -> None:
    async def test() -> None:
        begin, _ = half_a_large_frame()
        desk = make_desk(bench, frame_pool_bytes_max=1)
        Talk(desk).open(ALICE).send(begin)
        talk = Talk(desk).open(BOB)

        small = wire(publish(1, run_end(1, error_message="x" * 1000)))
        talk.send(small[:100])
        talk.send(small[100:])

        assert talk.transport.reading

    run(test)


def test_a_stream_of_large_frames_does_not_keep_others_from_the_pool(bench: Bench) -> None:
    """The end of each frame comes with the beginning of the next."""

    async def test() -> None:
        begin, rest = half_a_large_frame()
        desk = make_desk(bench, frame_pool_bytes_max=len(rest) + 100)
        greedy, patient = Talk(desk).open(ALICE), Talk(desk).open(BOB)
        greedy.send(begin)
        patient.send(begin)
        assert not patient.transport.reading

        greedy.send(rest + begin)

        assert patient.transport.reading
        assert not greedy.transport.reading
        patient.send(rest)
        assert greedy.transport.reading

    run(test)


def test_a_lost_connection_gives_its_memory_back(bench: Bench) -> None:
    async def test() -> None:
        begin, rest = half_a_large_frame()
        desk = make_desk(bench, frame_pool_bytes_max=len(rest) + 100)
        gone, waiting = Talk(desk).open(ALICE), Talk(desk).open(BOB)
        gone.send(begin)
        waiting.send(begin)

        gone.lose()

        assert waiting.transport.reading

    run(test)


@pytest.mark.parametrize(
    "begun", [b"", PREFACE[:2], PREFACE, opening()[:20], opening() + b"\x10\x00"]
)
def test_what_has_begun_must_be_finished_in_time(bench: Bench, begun: bytes) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench, frame_timeout_seconds=0.01))
        if begun:
            talk.send(begun)

        await until(lambda: talk.transport.closed, "the end of the patience")

        refused = talk.says()[-1]
        assert isinstance(refused, Refused)
        assert "within 0.01 s" in refused.message
        talk.lose()

    run(test)


def test_bytes_that_trickle_in_do_not_buy_more_time(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench, frame_timeout_seconds=0.05)).open()
        begin, rest = half_a_large_frame()
        talk.send(begin)
        trickle = iter(rest)

        def closed() -> bool:
            if not talk.transport.closed:
                talk.send(bytes([next(trickle)]))
            return talk.transport.closed

        await until(closed, "the end of the patience")

    run(test)


def test_an_open_conversation_may_be_idle(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench, frame_timeout_seconds=0.001)).open()
        late = Talk(make_desk(bench, frame_timeout_seconds=0.002))

        await until(lambda: late.transport.closed, "a later timer")

        assert not talk.transport.closed

    run(test)


def test_time_does_not_count_while_the_daemon_does_not_read(bench: Bench) -> None:
    async def test() -> None:
        size = weigh(publish(1, run_end(1)).events, 1)
        desk = make_desk(bench, unacknowledged_bytes_max=size, frame_timeout_seconds=0.001)
        talk = Talk(desk).open()
        talk.send(wire(publish(1, run_end(1))) + b"\x10\x00")
        assert not talk.transport.reading
        other = Talk(make_desk(bench, frame_timeout_seconds=0.002))
        await until(lambda: other.transport.closed, "a later timer")
        assert not talk.transport.closed

        bench.settle()
        assert talk.transport.reading
        await until(lambda: talk.transport.closed, "the end of the patience")

    run(test)


def test_the_clock_of_a_frame_stops_when_the_daemon_pauses_reading(bench: Bench) -> None:
    async def test() -> None:
        size = weigh(publish(1, run_end(1)).events, 1)
        desk = make_desk(bench, unacknowledged_bytes_max=size, frame_timeout_seconds=0.01)
        talk = Talk(desk).open()
        first = wire(publish(1, run_end(1)))
        talk.send(first[:10])
        talk.send(first[10:] + b"\x10\x00")
        talk.conversation.pause_writing()
        assert not talk.transport.reading
        other = Talk(make_desk(bench, frame_timeout_seconds=0.02))
        await until(lambda: other.transport.closed, "a later timer")
        assert not talk.transport.closed

        bench.settle()  # now it is only the client that keeps us from reading
        assert not talk.transport.reading
        await until(lambda: talk.transport.closed, "the end of the patience")

    run(test)


def test_time_counts_while_the_client_does_not_read(bench: Bench) -> None:
    """Else it would keep its frame, and what that has of the pool, for as long as it likes."""

    async def test() -> None:
        begin, rest = half_a_large_frame()
        size = len(begin + rest)
        desk = make_desk(bench, frame_pool_bytes_max=size, frame_timeout_seconds=0.01)
        talk, other = Talk(desk).open(ALICE), Talk(desk).open(BOB)
        talk.send(begin)
        talk.transport.buffered_bytes = 100_000
        talk.conversation.pause_writing()

        await until(lambda: talk.transport.closed, "the end of the patience")
        other.send(begin)
        assert other.transport.reading
        await until(lambda: talk.transport.aborted, "the end")

    run(test)


def test_who_reads_nothing_is_cut_off_though_he_owes_nothing(bench: Bench) -> None:
    async def test() -> None:
        desk = make_desk(bench, frame_timeout_seconds=0.01)
        talk, slow = Talk(desk).open(ALICE), Talk(desk).open(BOB)
        for each in (talk, slow):
            each.transport.buffered_bytes = 100_000
            each.conversation.pause_writing()
        slow.transport.buffered_bytes = 0
        slow.conversation.resume_writing()

        await until(lambda: talk.transport.aborted, "the end")

        assert slow.transport.reading

    run(test)


@pytest.mark.parametrize("eof", [True, False])
def test_a_close_does_not_wait_for_who_does_not_read(bench: Bench, eof: bool) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench, frame_timeout_seconds=0.01)).open()
        talk.transport.buffered_bytes = 100
        if eof:
            assert not talk.conversation.eof_received()
        else:
            talk.send(wire(Goodbye()))
        assert talk.transport.closed

        await until(lambda: talk.transport.aborted, "the end")

    run(test)


def test_time_does_not_count_while_a_frame_waits_for_memory(bench: Bench) -> None:
    async def test() -> None:
        begin, rest = half_a_large_frame()
        desk = make_desk(bench, frame_pool_bytes_max=1, frame_timeout_seconds=0.001)
        talk = Talk(desk).open()
        talk.send(begin)
        assert not talk.transport.reading
        other = Talk(make_desk(bench, frame_timeout_seconds=0.002))

        await until(lambda: other.transport.closed, "a later timer")

        assert not talk.transport.closed
        assert rest

    run(test)


def test_a_batch_of_the_largest_size_goes_through(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench)).open()
        events = [{"type": "odd", "event_id": str(n), "x": "y" * 200} for n in range(4096)]
        message = publish(1, *events)
        assert 900_000 < len(memoryview(message.events)) < 1024 * 1024

        talk.send(wire(message))
        bench.settle()

        assert [ack.stored for ack in talk.says()] == [4096]
        assert msgspec.msgpack.decode(bench.log.records[0].payload)["count"] == 4096

    run(test)
