"""The state of one project in memory, and how it is looked at.

``ProjectState`` holds what a ``DashboardState`` holds, plus what ``apply``
must remember. Everything handed out by ``freeze`` stays as it is while
``apply`` goes on: profiles are copied before their first change after a
freeze, runs and open runs are replaced and never changed. So a caller can
take a view in microseconds and encode it at leisure, on any thread.
"""

from __future__ import annotations

import copy
from collections import deque
from datetime import datetime
from typing import NamedTuple

import msgspec

from tallymark.events import RunEnd, RunStart
from tallymark.state import (
    EVENTS_MAX,
    AgentProfile,
    DashboardState,
    SessionSummary,
)
from tallymarkd.core.runs import NOTHING, Run, Tally, finished_run, utc

OPEN_RUNS_MAX = 10_000
"""Most runs that are open at once. Beyond it the oldest is forgotten: should it
have had usages, what its run.end carries is then counted as well."""

KNOWN_SESSIONS_MAX = 10_000
"""Session ids remembered, so that a session counts once after its summary is gone."""

SESSION_NAMES_MAX = 1_000
"""Most agents, and most tickets, that one session's summary names."""


_runs_decoder = msgspec.msgpack.Decoder(list[RunEnd])


class OpenRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run that has begun or had usages, and has not ended."""

    agent_name: str = ""
    session_id: str = ""
    start: RunStart | None = None
    spent: Tally = NOTHING
    cost_source: str = ""


class LiveSession:
    """A session's summary; agents and tickets stand as ordered sets beside it."""

    __slots__ = ("agents", "summary", "tickets")

    def __init__(self, summary: SessionSummary) -> None:
        self.summary = summary
        self.agents = dict.fromkeys(summary.agents_invoked)
        self.tickets = dict.fromkeys(summary.tickets_worked)

    def name_agent(self, name: str) -> None:
        if name not in self.agents and len(self.agents) < SESSION_NAMES_MAX:
            self.agents[name] = None

    def name_ticket(self, ticket: str) -> None:
        if ticket not in self.tickets and len(self.tickets) < SESSION_NAMES_MAX:
            self.tickets[ticket] = None

    def frozen(self) -> SessionSummary:
        summary = copy.copy(self.summary)
        summary.agents_invoked = list(self.agents)
        summary.tickets_worked = list(self.tickets)
        return summary


class ProjectState:
    """The state of one project. Changed only by ``apply``, by one thread at a time.

    ``board`` has the totals; its ``agents``, ``events`` and ``sessions`` are
    empty, since they stand here in the form that ``apply`` works on.
    """

    __slots__ = (
        "_first_number",
        "_indexed_number",
        "_numbers",
        "_owned",
        "_runs",
        "_unread",
        "_unread_count",
        "agents",
        "applied_lsn",
        "apply_failures",
        "board",
        "known_sessions",
        "open_runs",
        "sessions",
    )

    def __init__(
        self,
        board: DashboardState,
        *,
        open_runs: dict[str, OpenRun] | None = None,
        known_sessions: list[str] | None = None,
        applied_lsn: int = 0,
        apply_failures: int = 0,
    ) -> None:
        self.board = msgspec.structs.replace(board, agents={}, events=[], sessions=[])
        self.agents: dict[str, AgentProfile] = dict(board.agents)
        self._runs: list[Run] = list(board.events)
        self._unread: deque[tuple[msgspec.Raw, int]] = deque()
        """Runs behind those, as they came, with their number."""
        self._unread_count = 0
        self.sessions = {each.session_id: LiveSession(each) for each in board.sessions}
        self.open_runs: dict[str, OpenRun] = {} if open_runs is None else open_runs
        self.known_sessions: dict[str, None] = dict.fromkeys(
            self.sessions if known_sessions is None else known_sessions
        )
        self.applied_lsn = applied_lsn
        self.apply_failures = apply_failures
        self._owned: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._first_number = 0
        self._indexed_number = 0

    def own_agent(self, name: str) -> AgentProfile:
        """The agent's profile, made if needed, for changing."""
        profile = self.agents.get(name)
        if profile is not None and name in self._owned:
            return profile
        if profile is None:
            profile = AgentProfile(agent_name=name)
        else:
            profile = copy.copy(profile)
            profile.recent_events = list(profile.recent_events)
        self.agents[name] = profile
        self._owned.add(name)
        return profile

    @property
    def runs(self) -> list[Run]:
        """The newest finished runs, oldest first. May be changed, until the next ``apply``."""
        if self._unread:
            for events, _ in self._unread:
                self._runs += _runs_decoder.decode(events)
            self._unread.clear()
            self._unread_count = 0
            self._evict_runs()
        return self._runs

    def add_unread(self, events: msgspec.Raw, count: int) -> None:
        """Add runs as the msgpack array they came in. Most leave the state for newer ones
        before anybody looks at them, so they are decoded when somebody does."""
        self._unread.append((events, count))
        self._unread_count += count
        while self._unread_count - self._unread[0][1] >= EVENTS_MAX:
            # Those in front of them are over the limit as well.
            self._drop_runs(len(self._runs))
            _, gone = self._unread.popleft()
            self._unread_count -= gone
            self._first_number += gone

    def find_run(self, run_id: str) -> int | None:
        """Where in ``runs`` a finished run stands, if it is among the newest 500."""
        numbers, runs, first = self._numbers, self.runs, self._first_number
        end = first + len(runs)
        for number in range(max(self._indexed_number, first), end):
            numbers[runs[number - first].event_id] = number
        self._indexed_number = end
        found = numbers.get(run_id)
        if found is None or found < max(first, end - EVENTS_MAX):
            return None
        return found - first

    def evict(self) -> None:
        """Let go of what is over the limits, oldest first."""
        self._evict_runs()
        drop_oldest(self.open_runs, OPEN_RUNS_MAX)

    def _evict_runs(self) -> None:
        excess = len(self._runs) + self._unread_count - EVENTS_MAX
        if excess > 0:
            self._drop_runs(min(excess, len(self._runs)))

    def _drop_runs(self, count: int) -> None:
        del self._runs[:count]
        self._first_number += count
        if len(self._numbers) > 4 * EVENTS_MAX:
            first = self._first_number
            self._numbers = {
                name: number for name, number in self._numbers.items() if number >= first
            }

    def disown_agents(self) -> None:
        """From now on each profile is copied before it is changed."""
        self._owned.clear()


def drop_oldest(
    entries: dict[str, OpenRun] | dict[str, LiveSession] | dict[str, None], count_max: int
) -> None:
    """Remove the entries that were put in first until no more than ``count_max`` are left."""
    while len(entries) > count_max:
        del entries[next(iter(entries))]


def empty(project: str, at: datetime) -> ProjectState:
    """The state of a project of which nothing is known yet."""
    return ProjectState(
        DashboardState(project_name=project, created_at=utc(at), updated_at=utc(at))
    )


class View(NamedTuple):
    """A state at one moment. Nothing in it changes any more; do not change it either.

    ``runs`` and ``agents`` still need ``finished_run`` and ``finished_profile``.
    """

    board: DashboardState
    agents: dict[str, AgentProfile]
    runs: list[Run]
    sessions: list[SessionSummary]
    open_runs: dict[str, OpenRun]
    known_sessions: list[str]
    applied_lsn: int
    apply_failures: int


def freeze(state: ProjectState) -> View:
    """A view of the state as it is now. Takes about 10 ns for each agent.

    To be called where ``apply`` is called; the view can be read anywhere.
    """
    state.disown_agents()
    return View(
        copy.copy(state.board),
        dict(state.agents),
        list(state.runs),
        [session.frozen() for session in state.sessions.values()],
        dict(state.open_runs),
        list(state.known_sessions),
        state.applied_lsn,
        state.apply_failures,
    )


def snapshot(state: ProjectState) -> DashboardState:
    """The state as dashboards read it. For reading: it shares parts with the state."""
    view = freeze(state)
    return msgspec.structs.replace(
        view.board,
        agents={name: finished_profile(profile) for name, profile in view.agents.items()},
        events=[finished_run(run) for run in view.runs],
        sessions=view.sessions,
    )


def finished_profile(profile: AgentProfile) -> AgentProfile:
    """A copy with the derived figures; what an agent without runs has is left alone."""
    found = copy.copy(profile)
    runs = found.total_invocations
    if runs > 0:
        found.success_rate = found.successful_invocations / runs
        found.avg_duration_seconds = found.total_duration_seconds / runs
        found.avg_tokens_per_call = found.total_tokens / runs
        wins = found.successful_invocations
        found.cost_per_success_usd = found.total_cost_usd / wins if wins else 0.0
    return found
