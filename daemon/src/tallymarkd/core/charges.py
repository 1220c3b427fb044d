"""What the events of all types do to the figures: charge, touch, count."""

from __future__ import annotations

from datetime import datetime

from tallymark.events import Event, RunEnd, Usage
from tallymark.state import (
    RECENT_EVENTS_MAX,
    SESSIONS_MAX,
    AgentProfile,
    FinishedRun,
    SessionSummary,
)
from tallymarkd.core.entry import Batch
from tallymarkd.core.project_state import (
    KNOWN_SESSIONS_MAX,
    LiveSession,
    ProjectState,
    drop_oldest,
)
from tallymarkd.core.runs import (
    Tally,
    nanos_of,
    utc,
)

FAULTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What an event can cause. A lack of memory is no property of an event."""

MIXED_SOURCES = "mixed"
"""The ``cost_source`` of a run whose usages were priced in different ways."""


def time_of(event: Event, batch: Batch) -> datetime:
    ended = event.ended_at if isinstance(event, RunEnd) else None
    return utc(ended or event.at or batch.received_at)


def tally_of(event: Usage | RunEnd, batch: Batch, index: int, total: int) -> tuple[Tally, str]:
    """What the event carries, and where its cost is from: the event, else admission."""
    given, made = event.input_tokens, event.output_tokens
    read, written = event.cache_read_tokens, event.cache_write_tokens
    some = given + made + total + read + written  # refuses what is no number, before it is added
    nanos, source, unpriced = 0, event.cost_source, 0
    if event.estimated_cost_usd is not None:
        nanos = nanos_of(event.estimated_cost_usd)
    elif index in batch.costs:
        cost = batch.costs[index]
        nanos, source = cost.nanos, cost.source
    elif some:
        unpriced = 1
    usages = 1 if some or nanos or isinstance(event, Usage) else 0
    tally = Tally(given, made, total, read, written, nanos, usages, unpriced)
    return tally, source


def taken_by(run: FinishedRun) -> Tally:
    """What a finished run that had no usages has added."""
    nanos = nanos_of(run.estimated_cost_usd)
    return Tally(
        run.input_tokens,
        run.output_tokens,
        run.total_tokens,
        run.cache_read_tokens,
        run.cache_write_tokens,
        nanos,
        1 if run.input_tokens or run.output_tokens or run.total_tokens or nanos else 0,
        run.unpriced_usages,
    )


def joined(source: str, other: str) -> str:
    return source if source == other else MIXED_SOURCES


def charge(
    state: ProjectState,
    profile: AgentProfile,
    session: LiveSession | None,
    tally: Tally,
    sign: int = 1,
) -> None:
    """Add to agent, session and project, or with ``sign`` -1 take back from them."""
    tally.add_to(profile, sign)
    tally.add_to(state.board, sign)
    state.board.usages += sign * tally.usages
    if session is not None:
        tally.add_to(session.summary, sign)


def add_seconds(state: ProjectState, profile: AgentProfile, seconds: float) -> None:
    profile.total_duration_seconds += seconds
    state.board.total_duration_seconds += seconds


def touch_agent(profile: AgentProfile, time: datetime) -> None:
    if profile.last_active is None or profile.last_active < time:
        profile.last_active = time


def remember_runs(profile: AgentProfile, run_ids: list[str]) -> None:
    recent = profile.recent_events
    recent += run_ids
    if len(recent) > RECENT_EVENTS_MAX:
        del recent[:-RECENT_EVENTS_MAX]


def touch_session(
    state: ProjectState, session_id: str, began: datetime, latest: datetime
) -> LiveSession | None:
    """The session, begun if it is new; None without an id or when its summary is gone."""
    session = state.sessions.get(session_id)
    if session is None:
        if not session_id or session_id in state.known_sessions:
            return None
        session = _new_session(state, session_id)
    summary = session.summary
    if summary.started_at is None or began < summary.started_at:
        summary.started_at = began
    if summary.status == "continue" and (summary.ended_at is None or summary.ended_at < latest):
        summary.ended_at = latest
    return session


def name_in(session: LiveSession | None, agent_name: str, ticket: str) -> None:
    if session is not None:
        session.name_agent(agent_name)
        if ticket:
            session.name_ticket(ticket)


def _new_session(state: ProjectState, session_id: str) -> LiveSession:
    first = state.board.total_sessions == 0
    state.board.total_sessions += 1
    session = LiveSession(
        SessionSummary(
            session_id=session_id,
            session_number=state.board.total_sessions,
            session_type="initializer" if first else "continuation",
        )
    )
    state.sessions[session_id] = session
    state.known_sessions[session_id] = None
    drop_oldest(state.sessions, SESSIONS_MAX)
    drop_oldest(state.known_sessions, KNOWN_SESSIONS_MAX)
    return session
