"""The intake: bound, counters, waiters, and that recording rouses only a quiet sender."""

from __future__ import annotations

import pytest

from tallymark.errors import DeliveryError
from tallymark.intake import Intake, Waiter


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def test_only_a_quiet_sender_is_roused() -> None:
    rouse = Counted()
    intake = Intake(10, rouse)
    assert intake.put("a")
    assert intake.put("b")
    assert rouse.calls == 1
    intake.quiet = True
    intake.put("c")
    assert rouse.calls == 2


def test_an_event_that_is_flushed_next_rouses_nobody() -> None:
    rouse = Counted()
    intake = Intake(1, rouse)
    assert intake.put_quietly("a")
    assert not intake.put_quietly("b")
    assert (rouse.calls, list(intake.queue)) == (0, ["a"])
    assert intake.dropped["queue_full"] == 1


def test_the_bound_counts_what_is_held() -> None:
    intake = Intake(3, Counted())
    assert [intake.put(n) for n in range(4)] == [True, True, True, False]
    assert intake.pull(2) == [0, 1]
    assert not intake.put("no room")
    intake.settle(1)
    assert intake.put("room")
    assert intake.pending == 3
    assert intake.dropped["queue_full"] == 2


def test_pull_gives_what_there_is() -> None:
    intake = Intake(10, Counted())
    intake.put("a")
    assert intake.pull(5) == ["a"]
    assert intake.pull(5) == []
    assert intake.held == 1


def test_a_shut_intake_counts_under_its_reason() -> None:
    intake = Intake(10, Counted())
    intake.put("a")
    intake.shut("closed")
    assert not intake.put("b")
    assert intake.dropped["closed"] == 1
    assert intake.pending == 1


def test_abandoning_counts_queued_and_held() -> None:
    intake = Intake(10, Counted())
    for n in range(5):
        intake.put(n)
    intake.pull(2)
    intake.abandon_all("refused")
    assert intake.dropped["refused"] == 5
    assert intake.pending == 0
    assert not intake.put("late")
    assert intake.dropped["refused"] == 6


def test_a_loss_is_news() -> None:
    intake = Intake(1, Counted())
    intake.put("a")
    assert not intake.news
    intake.put("b")
    assert intake.news


@pytest.mark.parametrize("call", ["put", "enlist"])
def test_an_interrupted_rousing_is_made_up_for(call: str) -> None:
    told: list[bool] = []

    def rouse() -> None:
        told.append(len(told) != 0)
        if not told[-1]:
            raise KeyboardInterrupt

    intake = Intake(10, rouse)
    with pytest.raises(KeyboardInterrupt):
        intake.put("a") if call == "put" else intake.enlist(Waiter(lambda: None))
    assert told == [False, True]
    # Who was roused may not have been: the next one does it again.
    intake.put("b")
    assert told == [False, True, True]


def test_a_waiter_always_rouses() -> None:
    rouse, notify = Counted(), Counted()
    intake = Intake(10, rouse)
    intake.quiet = False
    intake.enlist(Waiter(notify))
    assert (rouse.calls, notify.calls) == (1, 0)


def test_a_waiter_that_comes_after_the_end_is_told_at_once() -> None:
    notify = Counted()
    intake = Intake(10, Counted())
    intake.over = True
    waiter = Waiter(notify)
    intake.enlist(waiter)
    assert notify.calls == 1
    assert isinstance(waiter.error, DeliveryError)
    intake.failure = DeliveryError("the cause")
    late = Waiter(notify)
    intake.enlist(late)
    assert late.error is intake.failure
