"""What ``install``, ``uninstall`` and ``status`` need of a service manager."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tallymark.fs import FileSystem
from tallymarkd.service.installation import Installation
from tallymarkd.service.machine import Machine, Ran, ServiceError
from tallymarkd.service.places import Places

WAIT_STEP_SECONDS = 0.2
WAIT_STEPS = 150


@dataclass(frozen=True)
class Step:
    """One command. ``may_fail``: its failure is no news. ``until_it_fails``: it is run
    again until it fails, which is how one waits for what it shows to go."""

    command: tuple[str, ...]
    may_fail: bool = False
    until_it_fails: bool = False


@dataclass(frozen=True)
class Condition:
    """What the manager says of the service. ``listening``: the socket is held;
    ``running``: the daemon is there; ``failed``: why it is not started any more."""

    listening: bool
    running: bool
    enabled: bool
    failed: str = ""


@dataclass(frozen=True)
class Lines:
    """One command for each, as a person types it."""

    start: str
    stop: str
    restart: str
    log: str


class OnMachine:
    """What every manager handles: an installation, and places for its files."""

    def __init__(
        self, machine: Machine, fs: FileSystem, installed: Installation, places: Places
    ) -> None:
        self._machine = machine
        self._fs = fs
        self._installed = installed
        self._places = places


class Manager(Protocol):
    """systemd for a user, systemd for the system, or launchd."""

    kind: str
    directory_mode: int
    """Of directories that are made for the files."""
    again: str
    """The command that installs it, or brings it up to date."""

    def check(self) -> None:
        """Raises ``ServiceError`` or ``UsageError`` when it cannot be used."""

    def files(self) -> Mapping[Path, str]:
        """What it would be given here and now: each file with its text."""

    def installed_files(self) -> Mapping[Path, str]:
        """As ``files``, for comparing: nothing is tried, and no place refused."""

    def usual_files(self) -> Mapping[Path, str]:
        """As ``files``, for a machine on which all is well: nobody is asked."""

    def paths(self) -> Sequence[Path]:
        """Where those files stand."""

    def socket(self) -> Path:
        """Where the installed service listens, else where it would."""

    def state_dir(self) -> Path:
        """Where the installed service keeps its state, else where it would."""

    def condition(self) -> Condition:
        """How the service is."""

    def after_writing(self, changed: AbstractSet[Path], before: Condition) -> list[Step]:
        """What makes it take the files. ``before`` is how the service was."""

    def before_removing(self) -> list[Step]:
        """What stops the service for good."""

    def after_removing(self) -> list[Step]:
        """What makes it forget the files."""

    def lines(self) -> Lines:
        """What a person types."""

    def notes(self) -> list[str]:
        """What a person should know of it once it is installed."""


def perform(machine: Machine, step: Step, what: str) -> None:
    """Run a step. Raises ``ServiceError``, which begins with ``what`` could not be done."""
    done = machine.run(step.command)
    for _ in range(WAIT_STEPS if step.until_it_fails else 0):
        if done.code:
            return
        machine.sleep(WAIT_STEP_SECONDS)
        done = machine.run(step.command)
    if step.until_it_fails and not done.code:
        raise ServiceError(f"cannot {what}: the old service does not end; try again")
    if done.code and not step.may_fail:
        raise ServiceError(f"cannot {what}: {failed(step.command, done)}")


def failed(command: Sequence[str], done: Ran) -> str:
    """A failed command and its last words."""
    return f"`{' '.join(command)}` failed: {done.cause}"
