"""Why nothing gets through, since when, and when to try again."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tallymark.protocol.messages import Nack
from tallymark.settings import Settings
from tallymark.trouble import Trouble


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trouble(clock: Clock) -> Trouble:
    settings = Settings(backoff_seconds_min=1.0, backoff_seconds_max=8.0)
    return Trouble(settings, clock, lambda: 1.0)


def test_each_loss_waits_longer_and_the_first_is_told(
    trouble: Trouble, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tallymark")
    pauses = []
    for _ in range(5):
        trouble.lost("it is away")
        pauses.append(trouble.retry_at - clock.now)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert (trouble.since, trouble.text) == (100.0, "it is away")
    assert caplog.messages == ["it is away; trying again"]
    # A Welcome alone is no sign that anything will get through.
    trouble.welcomed()
    assert (trouble.since, trouble.text) == (100.0, "")
    trouble.lost("again")
    assert trouble.retry_at == 108.0
    trouble.welcomed()
    trouble.progress()
    assert (trouble.since, trouble.text) == (None, "")
    trouble.lost("again")
    assert trouble.retry_at == 101.0


def test_since_is_when_it_began(trouble: Trouble, clock: Clock) -> None:
    trouble.lost("a")
    clock.now = 150.0
    trouble.lost("b")
    assert (trouble.since, trouble.text) == (100.0, "b")


def test_hurry_and_not_before(trouble: Trouble, clock: Clock) -> None:
    trouble.lost("a")
    trouble.hurry()
    assert trouble.retry_at == clock.now
    trouble.not_before(5.0)
    trouble.not_before(2.0)
    assert trouble.retry_at == 105.0


PATH = Path("/run/t.sock")


def nack(seconds: float, message: str, code: str = "disk_full") -> Nack:
    return Nack(code=code, seq=1, message=message, retry_after_seconds=seconds)


def test_the_longest_hold_counts(trouble: Trouble, clock: Clock) -> None:
    trouble.hold(PATH, nack(5.0, "no room"))
    clock.now = 102.0
    trouble.hold(PATH, nack(1.0, "still no room"))
    assert (trouble.hold_until, trouble.held_since) == (105.0, 100.0)
    told = "tallymarkd at /run/t.sock takes no events now: still no room (disk_full)"
    assert trouble.text == told
    # What follows a refused batch is refused for its own reason, which is not the cause.
    trouble.hold(PATH, nack(1.0, "1 was expected", "gap"))
    assert trouble.text == told
    trouble.release()
    assert (trouble.hold_until, trouble.text) == (None, "")
    trouble.hold(PATH, nack(1.0, "1 was expected", "gap"))
    assert "gap" in trouble.text


def test_a_hold_that_comes_again_began_with_the_first(trouble: Trouble, clock: Clock) -> None:
    trouble.hold(PATH, nack(1.0, "no room"))
    clock.now = 101.0
    trouble.release()
    trouble.hold(PATH, nack(1.0, "no room"))
    assert trouble.held_since == 100.0
    clock.now = 102.0
    trouble.lost("gone")
    assert (trouble.hold_until, trouble.since) == (None, 100.0)
    trouble.progress()
    assert trouble.held_since is None
    trouble.hold(PATH, nack(1.0, "no room"))
    assert trouble.held_since == 102.0
