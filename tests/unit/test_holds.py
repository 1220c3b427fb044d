from __future__ import annotations

from tallymarkd.core.holds import Holds


class Rig:
    """Holds, and what they have called."""

    def __init__(self) -> None:
        self.released = 0
        self.ready: list[str] = []
        self.holds = Holds(self._released)

    def _released(self) -> None:
        self.released += 1


def test_a_hold_lasts_until_it_is_released() -> None:
    rig = Rig()
    assert not rig.holds

    release = rig.holds.take(lambda: rig.ready.append("a"))
    assert rig.holds
    assert rig.ready == ["a"]
    assert rig.released == 0

    release()
    assert not rig.holds
    assert rig.released == 1


def test_a_release_counts_once() -> None:
    rig = Rig()
    first = rig.holds.take(lambda: None)
    second = rig.holds.take(lambda: None)

    first()
    first()
    assert rig.holds
    assert rig.released == 0

    second()
    assert not rig.holds
    assert rig.released == 1


def test_a_retirement_under_way_is_waited_for() -> None:
    rig = Rig()
    rig.holds.begin()

    rig.holds.take(lambda: rig.ready.append("a"))
    rig.holds.take(lambda: rig.ready.append("b"))
    assert rig.holds
    assert rig.ready == []

    rig.holds.end()
    assert rig.ready == ["a", "b"]
    rig.holds.end()
    assert rig.ready == ["a", "b"]


def test_who_went_away_meanwhile_is_not_told() -> None:
    rig = Rig()
    rig.holds.begin()
    release = rig.holds.take(lambda: rig.ready.append("a"))

    release()
    rig.holds.end()

    assert rig.ready == []
    assert not rig.holds
    assert rig.released == 1
