"""What a stretch of plain runs adds up to, independent of any state."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from tallymark.events import RunEnd
from tallymark.state import AgentProfile
from tallymarkd.core.runs import Tally


class Results(NamedTuple):
    """How runs ended, one after the other: what counts for an agent's streaks.

    ``first_wins`` and ``last_wins`` are the successes before the first and after the
    last failure, ``longest`` is the longest streak between two failures.
    """

    total: int
    failed: int
    first_wins: int
    longest: int
    last_wins: int
    last_error: str

    def add_to(self, profile: AgentProfile) -> None:
        """Count them for the agent."""
        streak = profile.current_streak + self.first_wins
        profile.total_invocations += self.total
        profile.successful_invocations += self.total - self.failed
        profile.best_streak = max(profile.best_streak, streak, self.longest, self.last_wins)
        if self.failed:
            profile.failed_invocations += self.failed
            profile.last_error = self.last_error
            streak = self.last_wins
        profile.current_streak = streak


def results_of(runs: list[RunEnd]) -> Results:
    """How these runs ended."""
    statuses = [run.status for run in runs]
    count = len(statuses)
    failed = count - statuses.count("success")
    if not failed:
        return Results(count, 0, count, 0, 0, "")
    failures = [index for index, status in enumerate(statuses) if status != "success"]
    last = failures[-1]
    longest = max([b - a - 1 for a, b in pairwise(failures)], default=0)
    error = runs[last].error_message or statuses[last]
    return Results(count, failed, failures[0], longest, count - 1 - last, error)


class Sums(NamedTuple):
    """Runs of one agent in one session, summed."""

    agent_name: str
    session_id: str
    run_ids: list[str]
    tickets: list[str]
    tally: Tally
    results: Results
    seconds: float
    counters: dict[str, int]
    began: datetime
    ended: datetime
