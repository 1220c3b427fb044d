"""Delivery under exceptions of signal handlers, and closing by several: nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tallymark import lifecycle
from tallymark.delivery import Delivery
from tallymark.events import Usage
from tallymark.settings import Settings
from tests.fake_daemon import FakeDaemon, until

LONG_SECONDS = 60.0

Make = Callable[..., Delivery]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Delivery] = []

    def make_one(**settings: Any) -> Delivery:
        delivery = Delivery(
            [tmp_path / "s.sock"],
            project="p",
            client="test",
            settings=Settings(**({"linger_seconds": 0.001} | settings)),
            spool_dir=tmp_path / "spool",
        )
        made.append(delivery)
        return delivery

    yield make_one
    for delivery in made:
        delivery.close(0.0)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "s.sock") as running:
        yield running
        assert not running.wrong


def put(delivery: Delivery, count: int) -> None:
    for _ in range(count):
        assert delivery.put(Usage())


def interrupt_starting(patch: pytest.MonkeyPatch, *, started: bool) -> None:
    """The next sender's thread meets a Ctrl-C before it is started, or while it is."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "tallymark-sender":
            patch.undo()
            if started:
                start(thread)
            signal.raise_signal(signal.SIGINT)
        start(thread)

    patch.setattr(threading.Thread, "start", interrupted)


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("flushes", [False, True])
def test_an_interrupted_start_makes_no_second_sender(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: bool, flushes: bool
) -> None:
    delivery = make()
    interrupt_starting(monkeypatch, started=started)
    with pytest.raises(KeyboardInterrupt):
        delivery.put(Usage())
    put(delivery, 50)
    if flushes:
        delivery.flush(LONG_SECONDS)
    put(delivery, 30)
    delivery.close(1.0)
    assert delivery.stats().spooled == 81
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        put(make(), 1)
        daemon.wait(lambda: len(daemon.events) == 82)
        assert not daemon.wrong


def interrupt_closing(delivery: Delivery, patch: pytest.MonkeyPatch) -> None:
    """The thread that closes meets a Ctrl-C while it waits for the sender."""
    sender = delivery._sender
    assert sender is not None

    def interrupted(_: float) -> bool:
        patch.undo()
        signal.raise_signal(signal.SIGINT)
        return False

    patch.setattr(sender.ended, "wait", interrupted)


@pytest.mark.parametrize("end", [Delivery.close, Delivery.close_at_exit])
def test_a_close_that_was_cut_short_is_gone_on_with(
    daemon: FakeDaemon,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    end: Callable[[Delivery], None],
) -> None:
    daemon.acks = False
    delivery = make(spool_after_seconds=LONG_SECONDS)
    put(delivery, 3)
    daemon.wait(lambda: daemon.events)
    interrupt_closing(delivery, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        delivery.close(LONG_SECONDS)
    end(delivery)
    assert delivery.stats().spooled == 3
    assert caplog.messages[-1].startswith("3 events were not delivered: 3 spooled in ")
    delivery.close()
    assert len(caplog.messages) == 1


def test_a_close_with_a_wrong_time_closes_nothing(daemon: FakeDaemon, make: Make) -> None:
    delivery = make()
    put(delivery, 1)
    with pytest.raises(TypeError):
        delivery.close("5")  # type: ignore[arg-type]
    put(delivery, 1)
    delivery.close(LONG_SECONDS)
    assert len(daemon.events) == 2


def test_a_second_thread_that_closes_waits_for_the_first(daemon: FakeDaemon, make: Make) -> None:
    daemon.acks = False
    delivery = make(spool_after_seconds=LONG_SECONDS)
    put(delivery, 3)
    daemon.wait(lambda: daemon.events)
    idle: list[bool] = []

    def close() -> None:
        delivery.close(LONG_SECONDS)
        idle.append(delivery.idle)

    threads = [threading.Thread(target=close) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: delivery.closed)
    daemon.resume_acks()
    for thread in threads:
        thread.join(LONG_SECONDS)
    assert idle == [True] * 4


def test_a_close_within_a_close_goes_on_with_it(
    daemon: FakeDaemon, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.acks = False
    delivery = make(spool_after_seconds=LONG_SECONDS)
    put(delivery, 3)
    daemon.wait(lambda: daemon.events)
    handler = signal.signal(signal.SIGINT, lambda *_: delivery.close(0.0))
    try:
        interrupt_closing(delivery, monkeypatch)
        delivery.close(LONG_SECONDS)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert delivery.stats().spooled == 3


class Interrupted:
    """Its first end is cut short."""

    def __init__(self) -> None:
        self.ends = 0

    def close_at_exit(self) -> None:
        self.ends += 1
        if self.ends == 1:
            raise KeyboardInterrupt

    def begin_again_in_child(self) -> None:
        pass


def test_an_interrupted_exit_closes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    mortals = [Interrupted(), Interrupted(), Interrupted()]
    monkeypatch.setattr(lifecycle, "_living", mortals)
    with pytest.raises(KeyboardInterrupt):
        lifecycle._close_all()
    assert [mortal.ends for mortal in mortals] == [2, 2, 2]


def test_who_retires_does_not_outlive_its_spooling(make: Make, tmp_path: Path) -> None:
    deliveries = [make(spool_after_seconds=0.01) for _ in range(3)]
    for delivery in deliveries:
        put(delivery, 5)
        delivery.retire()
    until(lambda: not any(each._thread and each._thread.is_alive() for each in deliveries))
    assert [delivery.stats().spooled for delivery in deliveries] == [5, 5, 5]
    assert len(list((tmp_path / "spool").glob("*.spool"))) == 3
