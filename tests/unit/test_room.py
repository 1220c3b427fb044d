from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from tallymarkd.core.engine import Engine
from tallymarkd.room import LOOK_SECONDS, Room


class Rig:
    """A full disk, timers and an engine that are the test's."""

    def __init__(self) -> None:
        self.free: int | None = 0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.cancelled = 0
        self.probes: list[Callable[[Exception | None], None]] = []
        self.engine = SimpleNamespace(disk_full="No space left", probe=self.probes.append)
        self.room = Room(
            cast(Engine, self.engine),
            free_bytes=lambda: self.free,
            needed_bytes=lambda: 100,
            call_later=self._call_later,
        )

    def _call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        self.timers.append((seconds, call))
        return SimpleNamespace(cancel=self._cancel)

    def _cancel(self) -> None:
        self.cancelled += 1

    def wait(self) -> None:
        (timer,) = self.timers
        self.timers.clear()
        assert timer[0] == LOOK_SECONDS
        timer[1]()


def test_nobody_looks_at_a_disk_that_has_room() -> None:
    rig = Rig()
    rig.engine.disk_full = None
    rig.room.after_commit()
    assert rig.timers == []


def test_it_is_tried_once_there_is_room() -> None:
    rig = Rig()
    rig.room.after_commit()
    rig.room.after_commit()
    for free in (0, 99, None):
        rig.free = free
        rig.wait()
    assert rig.probes == []

    rig.free = 100
    rig.wait()
    assert len(rig.probes) == 1
    assert rig.timers == []


def test_a_try_that_fails_is_not_the_last() -> None:
    rig = Rig()
    rig.free = 100
    rig.room.after_commit()
    rig.wait()
    rig.room.after_commit()
    rig.wait()
    assert len(rig.probes) == 2


def test_what_somebody_else_found_out_is_not_tried() -> None:
    rig = Rig()
    rig.free = 100
    rig.room.after_commit()
    rig.engine.disk_full = None
    rig.wait()
    assert (rig.probes, rig.timers) == ([], [])


def test_stopped_it_looks_no_more() -> None:
    rig = Rig()
    rig.room.stop()
    rig.room.after_commit()
    rig.room.stop()
    assert rig.cancelled == 1
