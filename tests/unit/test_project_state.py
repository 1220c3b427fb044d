from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tallymark.events import RunEnd
from tallymark.state import EVENTS_MAX, AgentProfile, DashboardState, FinishedRun, SessionSummary
from tallymarkd.core.project_state import (
    SESSION_NAMES_MAX,
    LiveSession,
    ProjectState,
    drop_oldest,
    empty,
    finished_profile,
    freeze,
    snapshot,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_profile_is_copied_once_after_a_freeze() -> None:
    state = empty("p", T0)
    first = state.own_agent("a")
    first.recent_events.append("r1")
    assert state.own_agent("a") is first

    view = freeze(state)
    second = state.own_agent("a")
    assert second is not first
    assert state.own_agent("a") is second
    second.recent_events.append("r2")
    assert view.agents["a"] is first
    assert first.recent_events == ["r1"]


def test_sessions_of_a_view_are_copies() -> None:
    state = empty("p", T0)
    session = state.sessions["s"] = LiveSession(SessionSummary(session_id="s"))
    session.name_agent("a")
    view = freeze(state)
    session.name_agent("b")
    session.summary.total_tokens = 5

    assert view.sessions == [SessionSummary(session_id="s", agents_invoked=["a"])]


def test_names_in_a_session_are_not_repeated_and_bounded() -> None:
    session = LiveSession(SessionSummary(session_id="s", agents_invoked=["old"]))
    for number in range(SESSION_NAMES_MAX + 10):
        for _ in range(2):
            session.name_agent(f"a{number}")
            session.name_ticket(f"t{number}")
    summary = session.frozen()

    assert summary.agents_invoked[:2] == ["old", "a0"]
    assert len(set(summary.agents_invoked)) == len(summary.agents_invoked) == SESSION_NAMES_MAX
    assert len(set(summary.tickets_worked)) == len(summary.tickets_worked) == SESSION_NAMES_MAX


def test_a_run_is_found_while_it_is_among_the_newest() -> None:
    state = empty("p", T0)
    for number in range(3 * EVENTS_MAX):
        state.runs.append(RunEnd(event_id=f"r{number}"))
        if number % 70 == 0:
            state.evict()
            assert state.find_run(f"r{number}") == len(state.runs) - 1
        if number >= EVENTS_MAX and number % 7 == 0:
            assert state.find_run(f"r{number - EVENTS_MAX}") is None
            place = state.find_run(f"r{number - EVENTS_MAX + 1}")
            assert place is not None
            assert state.runs[place].event_id == f"r{number - EVENTS_MAX + 1}"
    assert state.find_run("never") is None


def test_the_newest_of_two_runs_with_one_id_is_found() -> None:
    state = empty("p", T0)
    state.runs.extend(RunEnd(event_id=name) for name in ("r", "other", "r"))

    assert state.find_run("r") == 2


def test_the_index_of_runs_stays_small() -> None:
    state = empty("p", T0)
    for number in range(20 * EVENTS_MAX):
        state.runs.append(RunEnd(event_id=f"r{number}"))
        if number % 100 == 0:
            state.find_run("never")
            state.evict()

    assert len(state._numbers) <= 5 * EVENTS_MAX


def test_the_oldest_are_dropped() -> None:
    entries: dict[str, None] = dict.fromkeys("abcd")
    drop_oldest(entries, 2)

    assert list(entries) == ["c", "d"]


@pytest.mark.parametrize(("wins", "cost"), [(4, 0.5), (0, 0.0)])
def test_derived_figures(wins: int, cost: float) -> None:
    profile = AgentProfile(
        agent_name="a",
        total_invocations=5,
        successful_invocations=wins,
        total_tokens=100,
        total_cost_usd=2.0,
        total_duration_seconds=10.0,
    )
    found = finished_profile(profile)

    assert found.success_rate == wins / 5
    assert found.avg_duration_seconds == 2.0
    assert found.avg_tokens_per_call == 20.0
    assert found.cost_per_success_usd == cost
    assert profile.success_rate == 0.0


def test_a_state_made_of_a_dashboards_state_gives_it_back() -> None:
    board = DashboardState(
        project_name="p",
        created_at=T0,
        updated_at=T0,
        total_tokens=5,
        agents={"a": AgentProfile(agent_name="a")},
        events=[FinishedRun(event_id="e", agent_name="a")],
        sessions=[SessionSummary(session_id="s", agents_invoked=["a"], tickets_worked=["t"])],
    )
    state = ProjectState(board)

    assert snapshot(state) == board
    assert list(state.known_sessions) == ["s"]
