"""Why nothing gets through, since when, and when to try again."""

from __future__ import annotations

import logging

import pytest

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
    trouble.over()
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


def test_the_longest_hold_counts(trouble: Trouble, clock: Clock) -> None:
    trouble.hold(5.0, "disk full")
    clock.now = 102.0
    trouble.hold(1.0, "disk still full")
    assert (trouble.hold_until, trouble.held_since) == (105.0, 100.0)
    assert trouble.text == "disk still full"
    trouble.release()
    assert (trouble.hold_until, trouble.text) == (None, "")
    trouble.hold(1.0, "x")
    trouble.lost("gone")
    assert trouble.hold_until is None
