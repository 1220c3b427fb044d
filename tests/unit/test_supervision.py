from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tallymarkd.server.notify import Notifier
from tallymarkd.supervision import STATUS_SECONDS, Supervision
from tests.notify_socket import NotifySocket


class Timer:
    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds = seconds
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Rig:
    """A supervision whose clock, timers and committer are the test's."""

    def __init__(self, notifier: Notifier, watchdog_seconds: float | None) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []
        self.echoes: list[Callable[[], None]] = []
        self.status = "well"
        self.supervision = Supervision(
            notifier,
            watchdog_seconds,
            echo=self.echoes.append,
            status=lambda: self.status,
            call_later=self._call_later,
            clock=lambda: self.now,
            monotonic_ns=lambda: 5_000_000,
        )

    def _call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(seconds, call))
        return self.timers[-1]

    def tick(self) -> None:
        """The timer runs out."""
        timer = self.timers.pop()
        self.now += timer.seconds
        timer.call()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[NotifySocket]:
    with NotifySocket(tmp_path / "notify") as made:
        yield made


def test_ready_then_fed_at_half_the_interval(manager: NotifySocket) -> None:
    rig = Rig(Notifier(manager.address), 30.0)
    rig.supervision.ready()
    assert manager.next() == {"READY": "1", "STATUS": "well"}

    for _ in range(3):
        assert not manager.pending()
        rig.echoes.pop()()
        assert manager.next() == {"WATCHDOG": "1", "STATUS": "well"}
        assert [timer.seconds for timer in rig.timers] == [15.0]
        rig.tick()


def test_a_writer_that_gives_no_echo_is_not_covered_up(manager: NotifySocket) -> None:
    rig = Rig(Notifier(manager.address), 30.0)
    rig.supervision.ready()
    manager.next()

    for _ in range(5):
        rig.tick()

    assert not manager.pending()
    assert len(rig.echoes) == 1
    assert rig.supervision.late_seconds == 5 * 15.0 - 15.0
    rig.echoes.pop()()
    assert manager.next()["WATCHDOG"] == "1"
    assert rig.supervision.late_seconds is None


def test_a_timer_that_comes_late_is_no_writer_that_hangs(manager: NotifySocket) -> None:
    """After a machine slept, the first to look would find a fault that there is not."""
    rig = Rig(Notifier(manager.address), 30.0)
    rig.supervision.ready()
    rig.echoes.pop()()

    rig.now += 3600.0

    assert rig.supervision.late_seconds is None
    rig.tick()
    assert rig.supervision.late_seconds == 3600.0


def test_the_status_is_told_without_a_watchdog_too(manager: NotifySocket) -> None:
    rig = Rig(Notifier(manager.address), None)
    rig.supervision.ready()
    manager.next()
    rig.echoes.pop()()
    manager.next()
    rig.status = "degraded"

    assert [timer.seconds for timer in rig.timers] == [STATUS_SECONDS]
    rig.tick()
    rig.echoes.pop()()

    assert manager.next()["STATUS"] == "degraded"
    assert rig.supervision.late_seconds is None


def test_without_a_manager_nothing_ever_wakes_it() -> None:
    rig = Rig(Notifier(), None)
    rig.supervision.ready()

    assert rig.timers == []
    assert rig.echoes == []


def test_a_start_that_cannot_commit_is_not_ready(manager: NotifySocket) -> None:
    Rig(Notifier(manager.address), 30.0).supervision.cannot_commit("the disk is full")

    assert manager.next() == {"STATUS": "not ready: the disk is full"}


def test_a_reload_is_told_before_and_after(manager: NotifySocket) -> None:
    rig = Rig(Notifier(manager.address), 30.0)
    rig.supervision.ready()
    manager.next()

    def apply() -> None:
        assert manager.next()["RELOADING"] == "1"
        assert not manager.pending()

    rig.supervision.reload(apply)

    assert manager.next() == {"READY": "1", "STATUS": "well"}


def test_a_reload_during_a_start_says_nothing_of_being_ready(manager: NotifySocket) -> None:
    rig = Rig(Notifier(manager.address), 30.0)
    applied: list[bool] = []

    rig.supervision.cannot_commit("the disk is full")
    manager.next()
    rig.supervision.reload(lambda: applied.append(True))

    assert applied == [True]
    assert not manager.pending()
    assert rig.timers == []


def test_the_monotonic_time_of_a_reload_is_told(manager: NotifySocket) -> None:
    rig = Rig(Notifier(manager.address), 30.0)
    rig.supervision.ready()
    manager.next()
    rig.supervision.reload(lambda: None)

    assert manager.next()["MONOTONIC_USEC"] == "5000"


def test_the_end_is_told_and_stops_the_feeding(manager: NotifySocket) -> None:
    rig = Rig(Notifier(manager.address), 30.0)
    rig.supervision.ready()
    manager.next()
    (timer,) = rig.timers

    rig.supervision.stopping()
    rig.supervision.end()

    assert manager.next()["STOPPING"] == "1"
    assert timer.cancelled
