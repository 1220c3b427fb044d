"""The state of one project in memory, and how it is looked at.

``ProjectState`` holds what a ``DashboardState`` holds, plus what ``apply``
must remember. Everything handed out by ``freeze`` stays as it is while
``apply`` goes on: profiles are copied before their first change after a
freeze, runs and open runs are replaced and never changed. So a caller can
take a view in microseconds and encode it at leisure, on any thread.
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import UnsetType

from tallymark.events import RunEnd, RunStart
from tallymark.state import (
    EVENTS_MAX,
    AgentProfile,
    DashboardState,
    FinishedRun,
    SessionSummary,
)
from tallymarkd.core.plain import plain_dict

OPEN_RUNS_MAX = 10_000
"""Most runs that are open at once. Beyond it the oldest is forgotten: should it
have had usages, what its run.end carries is then counted as well."""

KNOWN_SESSIONS_MAX = 10_000
"""Session ids remembered, so that a session counts once after its summary is gone."""

SESSION_NAMES_MAX = 1_000
"""Most agents, and most tickets, that one session's summary names."""

NANOS = 1e9

FROM_RUN_END = "run.end"
FROM_USAGES = "usage"


def nanos_of(usd: float) -> int:
    """Dollars, not negative, as integer nano-dollars; halves are rounded up.

    Integers stay exact in a float up to 2**53, which is nine million dollars;
    half of it, 4.5 million dollars, is the largest sum that is exact here.
    """
    return int(usd * NANOS + 0.5)


def add_nanos(usd: float, nanos: int) -> float:
    """A sum in dollars plus nano-dollars, added as integers."""
    return (int(usd * NANOS + 0.5) + nanos) / NANOS


def utc(time: datetime) -> datetime:
    """The same instant in UTC. A time without a zone is taken as UTC."""
    if time.tzinfo is UTC:
        return time
    if time.tzinfo is None:
        return time.replace(tzinfo=UTC)
    try:
        return time.astimezone(UTC)
    except OverflowError:  # in the first or last hours of what datetime can hold
        return time.replace(tzinfo=UTC)


class Tally(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens and money of one or more usages. ``nanos`` are nano-dollars."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    nanos: int = 0
    usages: int = 0
    unpriced_usages: int = 0

    def plus(self, other: Tally) -> Tally:
        return Tally(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.total_tokens + other.total_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.nanos + other.nanos,
            self.usages + other.usages,
            self.unpriced_usages + other.unpriced_usages,
        )

    def add_to(self, total: AgentProfile | SessionSummary | DashboardState, sign: int = 1) -> None:
        """Add to lifetime figures, or with ``sign`` -1 take back from them."""
        total.input_tokens += sign * self.input_tokens
        total.output_tokens += sign * self.output_tokens
        total.total_tokens += sign * self.total_tokens
        if self.cache_read_tokens or self.cache_write_tokens:
            total.cache_read_tokens += sign * self.cache_read_tokens
            total.cache_write_tokens += sign * self.cache_write_tokens
        total.total_cost_usd = add_nanos(total.total_cost_usd, sign * self.nanos)
        if self.unpriced_usages:
            total.unpriced_usages += sign * self.unpriced_usages


NOTHING = Tally()


class OpenRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run that has begun or had usages, and has not ended."""

    agent_name: str = ""
    session_id: str = ""
    start: RunStart | None = None
    spent: Tally = NOTHING
    cost_source: str = ""


class EndedRun(NamedTuple):
    """A finished run whose run.end does not say all of it."""

    event_id: str
    event: RunEnd
    agent_name: str
    session_id: str
    ended_at: datetime
    start: RunStart | None
    spent: Tally
    cost_source: str
    tokens_from: str
    extra: dict[str, Any]


Run = RunEnd | EndedRun | FinishedRun
"""A finished run; ``finished_run`` makes it a ``FinishedRun``. Never changed, only replaced."""


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
        "agents",
        "applied_lsn",
        "apply_failures",
        "board",
        "known_sessions",
        "open_runs",
        "runs",
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
        self.runs: list[Run] = list(board.events)
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
        excess = len(self.runs) - EVENTS_MAX
        if excess > 0:
            del self.runs[:excess]
            self._first_number += excess
            if len(self._numbers) > 4 * EVENTS_MAX:
                first = self._first_number
                self._numbers = {
                    name: number for name, number in self._numbers.items() if number >= first
                }
        drop_oldest(self.open_runs, OPEN_RUNS_MAX)

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


def finished_run(run: Run) -> FinishedRun:
    """The run in its established form."""
    if isinstance(run, FinishedRun):
        return run
    return _from_event(run) if isinstance(run, RunEnd) else _from_ended(run)


def _from_event(event: RunEnd) -> FinishedRun:
    cost = event.estimated_cost_usd
    return FinishedRun(
        event_id=event.event_id,
        agent_name=event.agent_name,
        session_id=event.session_id,
        ticket_key=event.ticket_key,
        started_at=None if event.started_at is None else utc(event.started_at),
        ended_at=None if event.ended_at is None else utc(event.ended_at),
        duration_seconds=seconds_of(event, event.started_at, event.ended_at),
        status=event.status,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        total_tokens=total_of(event),
        estimated_cost_usd=0.0 if cost is None else nanos_of(cost) / NANOS,
        artifacts=event.artifacts,
        error_message=event.error_message,
        model_used=event.model_used,
        parent_run_id=event.parent_run_id,
        cache_read_tokens=event.cache_read_tokens,
        cache_write_tokens=event.cache_write_tokens,
        cost_source=event.cost_source,
        source=event.source,
        cwd=event.cwd,
        git_branch=event.git_branch,
        host=event.host,
        attrs=plain_dict(event.attrs) if event.attrs else {},
    )


def _from_ended(ended: EndedRun) -> FinishedRun:
    """The run with what its run.end leaves out and its run.start, or admission, knew."""
    event = ended.event
    run = _from_event(event)
    start = ended.start or RunStart()
    run.event_id = ended.event_id
    run.agent_name = ended.agent_name
    run.session_id = ended.session_id
    run.started_at = run.started_at or (None if start.at is None else utc(start.at))
    run.ended_at = ended.ended_at
    run.duration_seconds = seconds_of(event, run.started_at, run.ended_at)
    run.parent_run_id = event.parent_run_id or start.parent_run_id
    run.ticket_key = event.ticket_key or start.ticket_key
    run.model_used = event.model_used or start.model_used
    run.cwd = event.cwd or start.cwd
    run.git_branch = event.git_branch or start.git_branch
    run.host = event.host or start.host
    run.extra = plain_dict(ended.extra)
    give_figures(run, ended.spent, ended.cost_source, ended.tokens_from)
    return run


def give_figures(run: FinishedRun, spent: Tally, cost_source: str, tokens_from: str) -> None:
    """Give the run its tokens and its cost."""
    run.input_tokens = spent.input_tokens
    run.output_tokens = spent.output_tokens
    run.total_tokens = spent.total_tokens
    run.cache_read_tokens = spent.cache_read_tokens
    run.cache_write_tokens = spent.cache_write_tokens
    run.estimated_cost_usd = spent.nanos / NANOS
    run.unpriced_usages = spent.unpriced_usages
    run.cost_source = cost_source
    run.tokens_from = tokens_from


def total_of(event: RunEnd) -> int:
    """The run's tokens as given, else input and output."""
    total = event.total_tokens
    return event.input_tokens + event.output_tokens if isinstance(total, UnsetType) else total


def seconds_of(event: RunEnd, started: datetime | None, ended: datetime | None) -> float:
    """How long the run took: as given, else between its times, never negative."""
    if event.duration_seconds is not None:
        return event.duration_seconds
    if started is None or ended is None:
        return 0.0
    return max(0.0, (utc(ended) - utc(started)).total_seconds())
