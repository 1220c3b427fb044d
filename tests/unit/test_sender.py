"""The sender against a scripted daemon: nothing is lost and nothing counts twice."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallymark.delivery import Delivery
from tallymark.errors import DeliveryError, FlushTimeout, RefusedError
from tallymark.events import Usage
from tallymark.protocol.messages import Ack, Publish, Skip
from tallymark.settings import Settings
from tallymark.transport.unreachable import NOT_LET_IN
from tests.fake_daemon import LIMITS, FakeDaemon, until

QUICK: dict[str, Any] = {
    "linger_seconds": 0.001,
    "ack_timeout_seconds": 0.1,
    "welcome_timeout_seconds": 0.1,
    "backoff_seconds_min": 0.001,
    "backoff_seconds_max": 0.01,
}
PATIENT = QUICK | {"ack_timeout_seconds": 60, "welcome_timeout_seconds": 60}
FLUSH_SECONDS = 60.0

Make = Callable[..., Delivery]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "s.sock") as running:
        yield running
        assert not running.wrong


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Delivery] = []

    def make_one(
        *,
        sockets: list[Path] | None = None,
        clock: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> Delivery:
        delivery = Delivery(
            sockets or [tmp_path / "s.sock"],
            project="p",
            client="test",
            settings=Settings(**(PATIENT | settings)),
            clock=clock,
        )
        made.append(delivery)
        return delivery

    yield make_one
    for delivery in made:
        delivery.close(0.0)


def put(delivery: Delivery, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        assert delivery.put(Usage(event_id=str(number)))


def ids(daemon: FakeDaemon) -> list[str]:
    return [event["event_id"] for event in daemon.events]


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def test_events_arrive_once_and_in_order(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    put(delivery, 5000)
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == numbers(5000)
    (hello,) = daemon.hellos
    assert (hello.producer, hello.project, hello.client) == (delivery.producer, "p", "test")
    stats = delivery.stats()
    assert (stats.sent, stats.acknowledged, stats.queued, stats.unacknowledged) == (
        5000,
        5000,
        0,
        0,
    )


class Clock:
    """Time that stands until the test moves it; it counts how often it was looked at."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now


def test_events_wait_for_others(daemon: FakeDaemon, make: Make) -> None:
    clock = Clock()
    delivery = make(linger_seconds=5.0, clock=clock)
    put(delivery, 1)
    daemon.wait(lambda: len(daemon.events) == 1)
    put(delivery, 99, first=1)
    looks = clock.looks
    until(lambda: clock.looks > looks + 20, "a sender that goes round")
    assert len(daemon.events) == 1
    clock.now += 5.0
    daemon.wait(lambda: len(daemon.events) == 100)
    assert len(daemon.producer.batches) == 2


def test_a_waiter_ends_the_lingering(daemon: FakeDaemon, make: Make) -> None:
    delivery = make(linger_seconds=3600)
    put(delivery, 1)
    delivery.flush(FLUSH_SECONDS)
    put(delivery, 1, first=1)
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == ["0", "1"]


def test_a_full_batch_ends_the_lingering(daemon: FakeDaemon, make: Make) -> None:
    delivery = make(linger_seconds=3600, batch_events_max=10)
    put(delivery, 1)
    delivery.flush(FLUSH_SECONDS)
    put(delivery, 9, first=1)
    daemon.wait(lambda: daemon.hellos)
    assert len(daemon.events) == 1
    put(delivery, 3, first=10)
    daemon.wait(lambda: len(daemon.events) >= 11)


def test_connections_that_are_cut_before_the_ack(daemon: FakeDaemon, make: Make) -> None:
    daemon.cuts_before_ack = 5
    delivery = make(batch_events_max=10)
    put(delivery, 100)
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == numbers(100)
    assert len(daemon.hellos) >= 6
    assert delivery.stats().sent == 100


def test_random_trouble(daemon: FakeDaemon, make: Make) -> None:
    chance = random.Random(7)
    delivery = make(batch_events_max=7, queue_events_max=100_000)
    for round_number in range(60):
        put(delivery, 50, first=round_number * 50)
        match chance.randrange(5):
            case 0:
                daemon.cut()
            case 1:
                daemon.cuts_before_ack += 1
            case 2:
                daemon.nacks.append(("overloaded", 0.001))
            case 3:
                daemon.say_goodbye()
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == numbers(3000)
    assert delivery.stats().acknowledged == 3000


def test_a_nack_has_the_same_sent_again_after_its_time(daemon: FakeDaemon, make: Make) -> None:
    # The batches behind are refused too, with a shorter pause that must not count.
    daemon.nacks = [("disk_full", 0.05)]
    delivery = make(batch_events_max=10)
    began = time.monotonic()
    put(delivery, 30)
    delivery.flush(FLUSH_SECONDS)
    assert time.monotonic() - began >= 0.05
    assert ids(daemon) == numbers(30)
    assert len(daemon.hellos) == 1


def test_a_nack_that_lasts_is_the_reason_given(daemon: FakeDaemon, make: Make) -> None:
    daemon.nacks = [("disk_full", 3600.0)]
    delivery = make()
    put(delivery, 1)
    until(lambda: delivery.trouble)
    with pytest.raises(FlushTimeout, match=r"takes no events now: later \(disk_full\)"):
        delivery.flush(0)


def test_a_nack_instead_of_a_welcome(daemon: FakeDaemon, make: Make) -> None:
    daemon.greeting_nack = ("warming_up", 0.05)
    delivery = make()
    began = time.monotonic()
    put(delivery, 10)
    delivery.flush(FLUSH_SECONDS)
    assert time.monotonic() - began >= 0.05
    assert ids(daemon) == numbers(10)


def test_an_ack_after_the_nack_of_a_later_batch(daemon: FakeDaemon, make: Make) -> None:
    daemon.acks = False
    delivery = make(batch_events_max=1)
    put(delivery, 1)
    daemon.wait(lambda: len(daemon.events) == 1)
    daemon.nacks = [("overloaded", 0.05)]
    put(delivery, 1, first=1)
    daemon.wait(lambda: not daemon.nacks)
    daemon.resume_acks()
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == ["0", "1"]
    assert len(daemon.hellos) == 1


def test_no_welcome_in_time_begins_again(daemon: FakeDaemon, make: Make) -> None:
    daemon.welcomes = False
    delivery = make(welcome_timeout_seconds=0.02)
    put(delivery, 1)
    daemon.wait(lambda: len(daemon.hellos) >= 2)
    assert "connected, but no Welcome within 0.02 s" in delivery.trouble
    daemon.welcomes = True
    delivery.flush(FLUSH_SECONDS)
    assert delivery.trouble == ""


def test_no_ack_in_time_begins_again(daemon: FakeDaemon, make: Make) -> None:
    daemon.acks = False
    delivery = make(ack_timeout_seconds=0.05)
    put(delivery, 1)
    daemon.wait(lambda: len(daemon.hellos) >= 2)
    until(lambda: "nothing acknowledged within 0.05 s" in delivery.trouble or daemon.hellos[2:])
    daemon.acks = True
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == ["0"]


def test_a_daemon_that_stops_says_goodbye(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    put(delivery, 1)
    delivery.flush(FLUSH_SECONDS)
    daemon.say_goodbye()
    until(lambda: "it is stopping" in delivery.trouble)
    put(delivery, 1, first=1)
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == ["0", "1"]
    assert len(daemon.hellos) == 2


def test_an_idle_client_does_not_come_back_by_itself(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    put(delivery, 1)
    delivery.flush(FLUSH_SECONDS)
    daemon.cut()
    until(lambda: delivery.trouble)
    # Backoff is over within 10 ms: whoever would come back is there by then.
    with daemon.changed:
        assert not daemon.changed.wait_for(lambda: len(daemon.hellos) > 1, 0.1)


def test_a_daemon_that_comes_later(make: Make, tmp_path: Path) -> None:
    delivery = make()
    put(delivery, 100)
    until(lambda: "no socket there" in delivery.trouble)
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        delivery.flush(FLUSH_SECONDS)
        assert ids(daemon) == numbers(100)


def test_closing_tries_once_more_at_once(make: Make, tmp_path: Path) -> None:
    delivery = make(backoff_seconds_min=3600, backoff_seconds_max=3600)
    put(delivery, 100)
    until(lambda: "no socket there" in delivery.trouble)
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        delivery.close(FLUSH_SECONDS)
        assert ids(daemon) == numbers(100)


def test_another_program_at_the_socket(daemon: FakeDaemon, make: Make) -> None:
    daemon.first_words = b"HTTP/1.1 200 OK\r\n\r\n"
    delivery = make()
    put(delivery, 1)
    until(lambda: "not tallymarkd" in delivery.trouble or "broke" in delivery.trouble)
    daemon.first_words = None
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == ["0"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cannot serve you now: 10 connections are open", ""),
        ("cannot serve uid 1: this daemon serves uid 0 and root", f"; {NOT_LET_IN}"),
    ],
)
def test_a_daemon_that_turns_connections_away_is_heard(
    daemon: FakeDaemon, make: Make, line: str, said: str
) -> None:
    daemon.first_words = line.encode() + b"\n"
    delivery = make()
    put(delivery, 1)
    until(lambda: delivery.trouble)
    assert delivery.trouble.endswith(f"it turned the connection away: {line}{said}")
    daemon.first_words = None
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == ["0"]


def test_a_refused_client_stops_for_good(
    daemon: FakeDaemon, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.refusal = "wrong_project"
    delivery = make()
    for _ in range(5):
        delivery.put(Usage())
    with pytest.raises(RefusedError) as told:
        delivery.flush(FLUSH_SECONDS)
    assert told.value.code == "wrong_project"
    assert str(told.value).endswith("refused this client: not you (wrong_project)")
    assert not delivery.put(Usage())
    with pytest.raises(RefusedError):
        delivery.flush(FLUSH_SECONDS)
    assert len(daemon.hellos) == 1
    assert delivery.stats().dropped == {"refused": 6}
    delivery.close()
    first, last = caplog.messages
    assert first.endswith("refused this client: not you (wrong_project); nothing more is delivered")
    assert last.startswith("6 events were not delivered: 6 dropped because tallymarkd refused")


def test_the_window_bounds_what_is_in_flight(daemon: FakeDaemon, make: Make) -> None:
    daemon.limits = msgspec.structs.replace(LIMITS, unacknowledged_bytes_max=2000)
    daemon.acks = False
    delivery = make(batch_events_max=10)
    put(delivery, 1000)
    daemon.wait(lambda: daemon.events)
    with pytest.raises(FlushTimeout):
        delivery.flush(0.1)
    assert 0 < len(daemon.events) < 200
    daemon.resume_acks()
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == numbers(1000)


def test_a_daemon_that_stops_reading(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    put(delivery, 1)
    delivery.flush(FLUSH_SECONDS)
    daemon.reading.clear()
    large = Usage(attrs={"x": "y" * 60_000})
    for _ in range(100):
        assert delivery.put(large)
    with pytest.raises(FlushTimeout) as told:
        delivery.flush(0.1)
    # It reads once more, what it was waiting for.
    assert 90 <= told.value.pending_events <= 100
    daemon.reading.set()
    delivery.flush(FLUSH_SECONDS)
    assert len(daemon.events) == 101
    assert len(daemon.hellos) == 1


def test_verdicts_are_counted(daemon: FakeDaemon, make: Make) -> None:
    def answer(publish: Publish) -> Ack:
        reasons = {"bad_tokens": 2, "too_large": 1}
        return Ack(through_seq=publish.seq, stored=1, duplicate=1, rejected=3, reasons=reasons)

    daemon.answer = answer
    delivery = make(batch_events_max=5)
    for number in range(2):
        put(delivery, 1, first=number)
        delivery.flush(FLUSH_SECONDS)
    stats = delivery.stats()
    assert (stats.acknowledged, stats.duplicate) == (2, 2)
    assert stats.rejected == {"bad_tokens": 4, "too_large": 2}


def test_a_bad_event_harms_no_other(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    put(delivery, 2)
    delivery.put(Usage(attrs={"x": object()}))
    delivery.put(Usage(attrs={"x": "y" * 70_000}))
    put(delivery, 2, first=2)
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == numbers(4)
    assert delivery.stats().dropped == {"unencodable": 1, "too_large": 1}
    daemon.wait(lambda: len(daemon.producer.skips) == 2)
    assert {(skip.reason, skip.events) for skip in daemon.producer.skips} == {
        ("unencodable", 1),
        ("too_large", 1),
    }


def test_what_a_full_queue_dropped_is_reported(make: Make, tmp_path: Path) -> None:
    delivery = make(queue_events_max=100)
    put(delivery, 100)
    assert not delivery.put(Usage())
    assert not delivery.put(Usage())
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        delivery.flush(FLUSH_SECONDS)
        daemon.wait(lambda: daemon.producers and daemon.producer.skips)
        assert ids(daemon) == numbers(100)
        assert [skip.events for skip in daemon.producer.skips] == [2]


def test_another_daemon_with_other_records_is_stepped_over(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s.sock"
    delivery = make(batch_events_max=1)
    with FakeDaemon(path) as first:
        put(delivery, 3)
        delivery.flush(FLUSH_SECONDS)
    put(delivery, 2, first=3)
    with FakeDaemon(path, server_id="server-2") as second:
        delivery.flush(FLUSH_SECONDS)
        assert ids(second) == ["3", "4"]
        assert second.producer.skips == [
            Skip(from_seq=1, through_seq=3, events=0, reason="acknowledged_before")
        ]
        assert not second.wrong
    assert ids(first) == ["0", "1", "2"]
    assert not caplog.messages


def test_a_daemon_that_lost_what_it_acknowledged_is_told_of(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = make(batch_events_max=1)
    for first in (0, 1):
        with FakeDaemon(tmp_path / "s.sock"):
            put(delivery, 1, first=first)
            delivery.flush(FLUSH_SECONDS)
    assert caplog.messages == ["tallymarkd has lost batches 1 to 1, which it had acknowledged"]


def test_a_daemon_that_claims_too_much_is_not_believed(
    daemon: FakeDaemon, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tallymark")
    daemon.answer = lambda publish: Ack(through_seq=publish.seq + 5)
    delivery = make()
    put(delivery, 1)
    # Not by its trouble: the next connection ends that soon.
    until(lambda: "was never sent" in caplog.text)
    daemon.answer = lambda publish: None
    delivery.flush(FLUSH_SECONDS)
    assert ids(daemon) == ["0"]


def test_the_first_socket_that_answers_is_kept(
    daemon: FakeDaemon, make: Make, tmp_path: Path
) -> None:
    users = tmp_path / "users.sock"
    delivery = make(sockets=[users, daemon.path])
    put(delivery, 1)
    delivery.flush(FLUSH_SECONDS)
    with FakeDaemon(users) as other:
        daemon.cut()
        put(delivery, 1, first=1)
        delivery.flush(FLUSH_SECONDS)
        assert not other.hellos
    assert ids(daemon) == ["0", "1"]


def test_trouble_is_logged_once_and_quietly(
    daemon: FakeDaemon, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tallymark")
    daemon.cuts_before_ack = 4
    delivery = make(batch_events_max=1)
    put(delivery, 3)
    delivery.flush(FLUSH_SECONDS)
    assert all(record.levelno < logging.WARNING for record in caplog.records)


def test_a_fault_of_the_sender_itself_is_counted_and_ends_it(
    daemon: FakeDaemon,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tallymark.batching.Batcher.encode", fail)
    delivery = make()
    for _ in range(3):
        delivery.put(Usage())
    with pytest.raises(DeliveryError, match="the sender failed"):
        delivery.flush(FLUSH_SECONDS)
    assert delivery.stats().dropped == {"failed": 3}
    assert "cannot deliver any more" in caplog.text
