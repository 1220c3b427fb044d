"""The backlog: freezing, counting, waiters, and losses that are told once."""

from __future__ import annotations

import logging

import pytest

from tallymark.backlog import FREEZE_BYTES_MAX, Backlog
from tallymark.events import Usage
from tallymark.intake import Intake, Waiter
from tallymark.protocol import messages
from tallymark.protocol.messages import Ack, Message, Publish, Skip

WIDE = 10**9


class Bench:
    """An intake and its backlog, with nobody to rouse."""

    def __init__(self, queue_events_max: int = 100, batch_events_max: int = 1024) -> None:
        self.intake = Intake(queue_events_max, lambda: None)
        self.backlog = Backlog(self.intake, batch_events_max)
        self.told: list[str] = []

    def put(self, count: int) -> None:
        for number in range(count):
            self.intake.put(Usage(event_id=str(number)))

    def wait_for_all(self, name: str) -> Waiter:
        waiter = Waiter(lambda: self.told.append(name))
        self.intake.enlist(waiter)
        return waiter

    def send(self, window_bytes: int = WIDE) -> list[Message]:
        return [messages.decode_client(b.frame[4:]) for b in self.backlog.take(window_bytes)]


def test_a_new_backlog_is_empty() -> None:
    bench = Bench()
    assert bench.backlog.empty
    assert bench.backlog.first_seq == 1
    assert bench.send() == []


def test_events_are_frozen_sent_and_settled() -> None:
    bench = Bench()
    bench.put(3)
    assert not bench.backlog.empty
    bench.backlog.freeze_to(WIDE)
    (publish,) = bench.send()
    assert isinstance(publish, Publish)
    assert (publish.seq, publish.count) == (1, 3)
    assert bench.backlog.in_flight
    assert bench.intake.pending == 3
    assert bench.backlog.acknowledge(Ack(through_seq=1, stored=2, duplicate=1))
    assert bench.backlog.empty
    assert bench.intake.pending == 0
    assert (bench.backlog.sent, bench.backlog.acknowledged, bench.backlog.duplicate) == (3, 3, 1)
    assert not bench.backlog.acknowledge(Ack(through_seq=1))


def test_what_is_sent_again_is_counted_once() -> None:
    bench = Bench()
    bench.put(3)
    bench.backlog.freeze_to(WIDE)
    first = bench.send()
    bench.backlog.rewind()
    assert bench.send() == first
    assert bench.backlog.sent == 3


def test_a_new_connection_settles_what_is_durable() -> None:
    bench = Bench(batch_events_max=1)
    bench.put(3)
    bench.backlog.freeze_to(WIDE)
    bench.send()
    bench.backlog.resume(2)
    assert (bench.backlog.first_seq, bench.backlog.acknowledged) == (3, 2)
    assert [m.seq for m in bench.send() if isinstance(m, Publish)] == [3]


def test_the_window_bounds_what_is_frozen() -> None:
    bench = Bench(batch_events_max=1)
    bench.put(50)
    bench.backlog.freeze_to(200)
    frozen = bench.intake.held
    assert 1 < frozen < 10
    bench.backlog.freeze_to(200)
    assert bench.intake.held == frozen


def test_a_full_batch_does_not_linger() -> None:
    bench = Bench(batch_events_max=3)
    bench.put(2)
    assert not bench.backlog.freeze_due
    bench.put(1)
    assert bench.backlog.freeze_due


def test_what_somebody_waits_for_does_not_linger() -> None:
    bench = Bench()
    bench.put(1)
    bench.wait_for_all("w")
    bench.backlog.notice_waiters()
    assert bench.backlog.freeze_due
    bench.backlog.freeze_to(WIDE)
    assert not bench.backlog.freeze_due


def test_only_so_much_is_frozen_at_once() -> None:
    count = FREEZE_BYTES_MAX * 3 // 2 // 4096
    bench = Bench(queue_events_max=count)
    for number in range(count):
        bench.intake.put(Usage(event_id=str(number), source="x" * 4096))
    waiter = bench.wait_for_all("w")
    bench.backlog.notice_waiters()
    bench.backlog.freeze_to(WIDE)
    first = bench.send()
    assert count // 6 < len(bench.intake.queue) < count // 2
    assert bench.backlog.freeze_due
    bench.backlog.acknowledge(Ack(through_seq=len(first)))
    assert (bench.told, waiter.seq) == ([], 0)
    bench.backlog.freeze_to(WIDE)
    last = bench.send()
    bench.backlog.acknowledge(Ack(through_seq=len(first) + len(last)))
    assert bench.told == ["w"]


def test_a_waiter_for_what_cannot_be_sent_is_told() -> None:
    bench = Bench()
    bench.intake.put(object())
    bench.wait_for_all("w")
    bench.backlog.notice_waiters()
    bench.backlog.freeze_to(WIDE)
    assert bench.told == ["w"]


def test_a_waiter_is_told_when_all_before_it_is_durable() -> None:
    bench = Bench(batch_events_max=2)
    bench.put(3)
    bench.wait_for_all("first")
    bench.backlog.notice_waiters()
    bench.backlog.freeze_to(WIDE)
    bench.put(1)
    bench.wait_for_all("second")
    bench.backlog.notice_waiters()
    bench.backlog.freeze_to(WIDE)
    bench.send()
    bench.backlog.acknowledge(Ack(through_seq=1))
    assert bench.told == []
    bench.backlog.acknowledge(Ack(through_seq=2))
    assert bench.told == ["first"]
    bench.backlog.resume(3)
    assert bench.told == ["first", "second"]


def test_a_waiter_with_nothing_before_it_is_told_at_once() -> None:
    bench = Bench()
    bench.wait_for_all("w")
    bench.backlog.notice_waiters()
    assert bench.told == ["w"]


def test_waiters_that_gave_up_are_forgotten() -> None:
    bench = Bench()
    bench.put(1)
    for name in ("gone", "here"):
        waiter = bench.wait_for_all(name)
        bench.backlog.notice_waiters()
        waiter.abandoned = name == "gone"
    bench.wait_for_all("late")
    bench.backlog.notice_waiters()
    bench.backlog.freeze_to(WIDE)
    bench.send()
    bench.backlog.acknowledge(Ack(through_seq=1))
    assert bench.told == ["here", "late"]


def test_waiters_are_dismissed_with_an_error() -> None:
    bench = Bench()
    bench.put(1)
    waiter = bench.wait_for_all("w")
    bench.backlog.notice_waiters()
    bench.backlog.dismiss()
    assert bench.told == ["w"]
    assert waiter.error is not None


def test_losses_are_told_to_the_daemon_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(queue_events_max=2)
    bench.put(5)
    assert not bench.backlog.empty
    bench.backlog.notice_losses("the cause")
    bench.backlog.freeze_to(WIDE)
    assert bench.send()[0] == Skip(from_seq=1, through_seq=1, events=3, reason="queue_full")
    bench.backlog.acknowledge(Ack(through_seq=2))
    assert bench.backlog.empty
    bench.put(3)
    bench.backlog.notice_losses("")
    bench.backlog.freeze_to(WIDE)
    assert bench.send()[0] == Skip(from_seq=3, through_seq=3, events=1, reason="queue_full")
    assert caplog.messages == ["events are dropped because the queue was full: the cause"]


def test_a_bad_event_is_lost_alone_and_told(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.put(1)
    bench.intake.put(object())
    bench.put(1)
    bench.backlog.freeze_to(WIDE)
    (publish,) = bench.send()
    assert isinstance(publish, Publish)
    assert publish.count == 2
    assert bench.intake.dropped["unencodable"] == 1
    assert bench.intake.pending == 2
    assert "cannot be encoded; the first: TypeError" in caplog.text
    bench.backlog.notice_losses("")
    bench.backlog.freeze_to(WIDE)
    assert bench.send() == [Skip(from_seq=2, through_seq=2, events=1, reason="unencodable")]
    assert len(caplog.messages) == 1


def test_rejections_are_counted_by_code_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tallymark")
    bench = Bench(batch_events_max=1)
    bench.put(2)
    bench.backlog.freeze_to(WIDE)
    bench.send()
    bench.backlog.acknowledge(Ack(through_seq=1, rejected=1, reasons={"bad_tokens": 1}))
    bench.backlog.acknowledge(Ack(through_seq=2, rejected=1, reasons={"bad_tokens": 1}))
    assert bench.backlog.rejected == {"bad_tokens": 2}
    assert caplog.messages == ["tallymarkd rejected events: bad_tokens"]


def test_abandoning_counts_everything_as_lost() -> None:
    bench = Bench(batch_events_max=2)
    bench.put(3)
    bench.backlog.freeze_to(WIDE)
    bench.put(2)
    bench.backlog.abandon("refused")
    assert bench.backlog.empty is False  # the loss is news to the sender, which ends
    bench.backlog.notice_losses("")
    assert bench.backlog.empty
    assert bench.intake.dropped["refused"] == 5
