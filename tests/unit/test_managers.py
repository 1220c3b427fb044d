from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tallymarkd.service.machine import Machine, Ran, ServiceError
from tallymarkd.service.managers import WAIT_STEPS, Step, perform


class Commands:
    """Gives the answers in order, the last again and again."""

    def __init__(self, *answers: Ran) -> None:
        self.answers = list(answers)
        self.run_count = 0
        self.slept = 0.0

    def run(self, command: Sequence[str]) -> Ran:
        self.run_count += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def perform(self, step: Step) -> None:
        def ask(socket: Path) -> None:
            raise AssertionError(socket)

        machine = Machine("linux", 1, "a", {}, self.run, ask, self.sleep)  # type: ignore[arg-type]
        perform(machine, step, "install the service")


def test_a_step_that_works() -> None:
    commands = Commands(Ran(0))
    commands.perform(Step(("a", "b")))
    assert commands.run_count == 1


def test_a_step_that_fails_says_which_and_why() -> None:
    with pytest.raises(ServiceError) as caught:
        Commands(Ran(1, err="Access denied\n")).perform(Step(("a", "b")))
    assert str(caught.value) == "cannot install the service: `a b` failed: Access denied"


def test_a_step_that_may_fail() -> None:
    Commands(Ran(1)).perform(Step(("a",), may_fail=True))


def test_waiting_until_something_is_gone() -> None:
    commands = Commands(Ran(0), Ran(0), Ran(113))
    commands.perform(Step(("a",), until_it_fails=True))
    assert commands.run_count == 3
    assert commands.slept > 0


def test_waiting_ends() -> None:
    commands = Commands(Ran(0))
    with pytest.raises(ServiceError, match="the old service does not end"):
        commands.perform(Step(("a",), until_it_fails=True))
    assert commands.run_count == WAIT_STEPS + 1
