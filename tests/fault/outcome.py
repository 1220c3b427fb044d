"""What an ordeal gives: how many times something was broken, and what became of the events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """One line of ``make torture``.

    ``tried`` says how often something was broken, ``lost`` how many acknowledged
    events were gone after it, ``doubled`` how many were counted more than once or
    never sent. ``wrong`` counts everything else that must not be: a traceback, a
    wrong exit code, a state that does not add up, less tried than was promised.
    ``notes`` are printed below the line.
    """

    what: str
    tried: int
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether something was tried, and nothing was lost, doubled or wrong."""
        return self.tried > 0 and not (self.lost or self.doubled or self.wrong)

    def lines(self) -> list[str]:
        """The line, and its notes."""
        verdict = "ok" if self.passed else "FAILED"
        head = (
            f"{verdict:<6}  {self.what:<58} tried {self.tried:>6}"
            f"  lost {self.lost:>3}  doubled {self.doubled:>3}  wrong {self.wrong:>3}"
        )
        return [head, *(f"        {note}" for note in self.notes)]


Ordeal = Callable[[Path], Outcome]
"""Breaks something many times, in a directory of its own, and counts."""


@contextmanager
def quiet() -> Iterator[None]:
    """Thousands of recoveries need not tell the log."""
    log = logging.getLogger("tallymarkd")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)
