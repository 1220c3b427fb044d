"""Delivery: bounds, flush, close, and its exact last words."""

from __future__ import annotations

import gc
import logging
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tallymark.delivery import Delivery
from tallymark.errors import DeliveryError, FlushTimeout
from tallymark.events import Usage
from tallymark.settings import Settings
from tests.fake_daemon import FakeDaemon, until
from tests.speed import Times, quick

FLUSH_SECONDS = 60.0
EXIT_SECONDS_MAX = 0.5
PUT_SECONDS_MAX = 0.2

Make = Callable[..., Delivery]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "s.sock") as running:
        yield running
        assert not running.wrong


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Delivery] = []

    def make_one(last_words: Callable[[], None] = lambda: None, **settings: Any) -> Delivery:
        delivery = Delivery(
            [tmp_path / "s.sock"],
            project="p",
            client="test",
            settings=Settings(**({"linger_seconds": 0.001} | settings)),
            last_words=last_words,
        )
        made.append(delivery)
        return delivery

    # Tests count the threads: those of others may take their time to end.
    until(lambda: not senders(), "the end of earlier senders")
    yield make_one
    for delivery in made:
        delivery.close(0.0)


def senders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tallymark-sender"]


def test_nothing_is_started_until_something_is_recorded(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    delivery.flush(0)
    delivery.stats()
    delivery.close()
    assert not senders()
    assert not daemon.hellos


def test_one_thread_is_started_by_the_first_event(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    delivery.put(Usage())
    delivery.put(Usage())
    (thread,) = senders()
    assert thread.daemon
    delivery.close(FLUSH_SECONDS)
    assert not senders()


def test_the_queue_is_bounded_and_drops_are_counted(make: Make) -> None:
    delivery = make()
    taken = [delivery.put(Usage()) for _ in range(20_000)]
    assert taken == [True] * 10_000 + [False] * 10_000
    stats = delivery.stats()
    assert stats.queued + stats.unacknowledged == 10_000
    assert stats.dropped == {"queue_full": 10_000}
    assert delivery.full


def test_recording_makes_no_wake_up_while_the_sender_is_active(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[int] = []
    monkeypatch.setattr("tallymark.sender.Sender.wake", lambda self: woken.append(1))
    delivery = make()
    for _ in range(1000):
        delivery.put(Usage())
    assert not woken


def test_a_sleeping_sender_is_woken_by_the_next_event(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    for _ in range(5):
        delivery.put(Usage())
        until(lambda: delivery.idle and delivery._intake.quiet)
    assert len(daemon.events) == 5


def test_many_threads_record_at_once(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()

    def record(name: str) -> None:
        for number in range(500):
            assert delivery.put(Usage(event_id=f"{name}-{number}"))
        delivery.flush(FLUSH_SECONDS)

    threads = [threading.Thread(target=record, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FLUSH_SECONDS)
    assert len(senders()) == 1
    got = [event["event_id"] for event in daemon.events]
    assert len(got) == 4000
    for name in range(8):
        own = [event for event in got if event.startswith(f"{name}-")]
        assert own == [f"{name}-{number}" for number in range(500)]


# Flush.


def test_flush_returns_when_all_is_durable(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    daemon.acks = False
    delivery.put(Usage())
    daemon.wait(lambda: len(daemon.events) == 1)
    with pytest.raises(FlushTimeout):
        delivery.flush(0.05)
    daemon.resume_acks()
    delivery.flush(FLUSH_SECONDS)
    assert delivery.idle


def test_flush_in_vain_says_what_is_pending_and_why(make: Make, tmp_path: Path) -> None:
    delivery = make()
    for _ in range(3):
        delivery.put(Usage())
    until(lambda: delivery.trouble)
    with pytest.raises(FlushTimeout) as told:
        delivery.flush(0.01)
    assert told.value.pending_events == 3
    assert str(told.value) == (
        "cannot flush within 0.01 s: 3 events are not durable yet: "
        f"cannot reach tallymarkd at {tmp_path}/s.sock: no socket there; it is not running; "
        "they stay pending and must not be emitted again"
    )


def test_flushes_in_vain_leave_nothing_behind(make: Make, tmp_path: Path) -> None:
    delivery = make()
    delivery.put(Usage(event_id="only"))
    for _ in range(200):
        with pytest.raises(FlushTimeout):
            delivery.flush(0)
    until(lambda: not delivery._intake.waiters)
    sender = delivery._sender
    assert sender is not None
    assert len(sender.backlog._waiting) <= 200
    with pytest.raises(FlushTimeout):
        delivery.flush(0.05)
    until(lambda: len(sender.backlog._waiting) <= 2)
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        delivery.flush(FLUSH_SECONDS)
        assert [event["event_id"] for event in daemon.events] == ["only"]


def test_flush_waits_only_for_what_came_before(daemon: FakeDaemon, make: Make) -> None:
    delivery = make(linger_seconds=3600)
    delivery.put(Usage())
    delivery.flush(FLUSH_SECONDS)
    daemon.acks = False
    delivery.put(Usage())
    done = threading.Event()
    first = delivery.watch(done.set)
    daemon.wait(lambda: len(daemon.events) == 2)
    delivery.put(Usage())
    daemon.resume_acks()
    assert done.wait(FLUSH_SECONDS)
    assert first.error is None
    assert not delivery.idle


def test_many_threads_flush_at_once(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                delivery.put(Usage())
                delivery.flush(FLUSH_SECONDS)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FLUSH_SECONDS)
    assert not failures
    assert len(daemon.events) == 300


# Close.


def test_close_delivers_and_says_goodbye(
    daemon: FakeDaemon, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = make(linger_seconds=3600, exit_timeout_seconds=10)
    for _ in range(100):
        delivery.put(Usage())
    delivery.close()
    daemon.wait(lambda: daemon.producer.goodbye)
    assert len(daemon.events) == 100
    assert not caplog.messages
    delivery.close()


def test_no_goodbye_while_something_is_unacknowledged(daemon: FakeDaemon, make: Make) -> None:
    daemon.acks = False
    delivery = make()
    delivery.put(Usage())
    daemon.wait(lambda: daemon.events)
    delivery.close(0.01)
    daemon.wait(lambda: not daemon._connections)
    assert not daemon.producer.goodbye


def test_the_last_words_are_delivered_once(daemon: FakeDaemon, make: Make) -> None:
    said: list[int] = []

    def speak() -> None:
        said.append(1)
        delivery.put(Usage(event_id="last"))

    delivery = make(speak)
    delivery.close(FLUSH_SECONDS)
    delivery.close()
    assert [event["event_id"] for event in daemon.events] == ["last"]
    assert said == [1]


def test_after_close_nothing_is_taken_and_it_is_counted(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    delivery.put(Usage())
    delivery.close(FLUSH_SECONDS)
    assert not delivery.put(Usage())
    assert delivery.stats().dropped == {"closed": 1}
    delivery.flush(1)


def test_flush_after_a_close_in_vain_fails(make: Make) -> None:
    delivery = make()
    delivery.put(Usage())
    delivery.close(0)
    with pytest.raises(DeliveryError, match="the client is closed; 1 events were not delivered"):
        delivery.flush(1)


@pytest.mark.parametrize("used", [True, False])
def test_who_waits_after_the_end_is_let_go(daemon: FakeDaemon, make: Make, used: bool) -> None:
    delivery = make()
    if used:
        delivery.put(Usage())
    delivery.close(FLUSH_SECONDS)
    told = threading.Event()
    waiter = delivery.watch(told.set)
    assert told.is_set()
    assert waiter.error is not None
    assert not senders()


def test_close_wakes_who_is_flushing(make: Make) -> None:
    delivery = make()
    delivery.put(Usage())
    told: list[str] = []

    def flush() -> None:
        with pytest.raises(DeliveryError, match="the client is closed") as error:
            delivery.flush(FLUSH_SECONDS)
        told.append(str(error.value))

    thread = threading.Thread(target=flush)
    thread.start()
    until(lambda: delivery._sender is not None and delivery._sender.backlog.somebody_waits)
    delivery.close(0.0)
    thread.join(FLUSH_SECONDS)
    assert told


def absent(daemon: FakeDaemon) -> str:
    daemon.stop()
    return "no socket there"


def silent(daemon: FakeDaemon) -> str:
    daemon.welcomes = False
    return ""


def not_reading(daemon: FakeDaemon) -> str:
    daemon.reading.clear()
    return ""


def foreign(daemon: FakeDaemon) -> str:
    daemon.first_words = b"220 mail.example.org ESMTP\r\n"
    return "cannot reach tallymarkd"


def never_acknowledging(daemon: FakeDaemon) -> str:
    daemon.acks = False
    return ""


@pytest.mark.parametrize("trouble", [absent, silent, not_reading, foreign, never_acknowledging])
def test_the_exact_count_of_what_was_not_delivered(
    daemon: FakeDaemon,
    make: Make,
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[FakeDaemon], str],
) -> None:
    cause = trouble(daemon)

    def attempt() -> tuple[Times, None]:
        delivery = make()
        slowest = 0.0
        for _ in range(20_000):
            began = time.perf_counter()
            delivery.put(Usage())
            slowest = max(slowest, time.perf_counter() - began)
        until(lambda: cause in delivery.trouble, "the cause")
        began = time.perf_counter()
        delivery.close()
        took = time.perf_counter() - began
        last = caplog.messages[-1]
        assert last.startswith(
            "20000 events were not delivered: 10000 still unacknowledged, "
            "10000 dropped because the queue was full"
        )
        assert cause in last
        return {"put": slowest, "close": took}, None

    quick({"put": PUT_SECONDS_MAX, "close": EXIT_SECONDS_MAX}, attempt)


def test_drops_alone_are_told_too(
    daemon: FakeDaemon, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.acks = False
    delivery = make(queue_events_max=1)
    delivery.put(Usage())
    delivery.put(Usage())
    daemon.wait(lambda: daemon.events)
    daemon.resume_acks()
    delivery.close(FLUSH_SECONDS)
    assert caplog.messages[-1] == (
        "1 events were not delivered: 1 dropped because the queue was full"
    )


def test_the_warning_is_a_single_line_on_the_librarys_logger(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = make()
    delivery.put(Usage())
    delivery.close(0)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert record.name == "tallymark"
    assert re.fullmatch(r"1 events were not delivered: 1 still unacknowledged.*", record.message)


def test_retiring_delivers_without_waiting(daemon: FakeDaemon, make: Make) -> None:
    delivery = make(linger_seconds=3600)
    for _ in range(100):
        delivery.put(Usage())
    delivery.retire()
    daemon.wait(lambda: daemon.producers and daemon.producer.goodbye)
    assert len(daemon.events) == 100
    until(lambda: not senders())


def refuse_threads(patch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "tallymark-sender":
            raise RuntimeError("can't start new thread")
        start(thread)

    patch.setattr(threading.Thread, "start", refuse)


def test_a_thread_that_cannot_be_started(
    daemon: FakeDaemon,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivery = make(exit_timeout_seconds=10)
    with monkeypatch.context() as patch:
        refuse_threads(patch)
        for _ in range(3):
            assert delivery.put(Usage())
        assert caplog.messages == ["cannot start tallymark's sender: can't start new thread"]
        # The thread that closes does the work.
        delivery.close()
    assert len(daemon.events) == 3
    daemon.wait(lambda: daemon.producer.goodbye)


def test_a_thread_is_tried_again_with_the_next_event(
    daemon: FakeDaemon, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = make()
    with monkeypatch.context() as patch:
        refuse_threads(patch)
        delivery.put(Usage())
    delivery.put(Usage())
    daemon.wait(lambda: len(daemon.events) == 2)


def test_a_closed_delivery_is_let_go(daemon: FakeDaemon, make: Make, tmp_path: Path) -> None:
    delivery = Delivery([daemon.path], project="p", client="test", settings=Settings())
    delivery.put(Usage())
    delivery.close(FLUSH_SECONDS)
    gone = weakref.ref(delivery)
    del delivery
    gc.collect()
    assert gone() is None
