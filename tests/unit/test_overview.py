from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import msgspec

from tallymark.state import AgentProfile, DashboardState
from tallymarkd.core.overview import overview

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def make_state() -> DashboardState:
    return DashboardState(
        project_name="demo",
        created_at=NOON - timedelta(days=1),
        updated_at=NOON,
        total_sessions=3,
        total_tokens=1200,
        input_tokens=1000,
        output_tokens=200,
        cache_read_tokens=700,
        cache_write_tokens=20,
        total_cost_usd=1.25,
        usages=9,
        other_events=4,
        unpriced_usages=2,
        agents={
            "idle": AgentProfile(agent_name="idle"),
            "early": AgentProfile(
                agent_name="early", total_invocations=1, last_active=NOON - timedelta(hours=1)
            ),
            "coding": AgentProfile(
                agent_name="coding",
                total_invocations=4,
                successful_invocations=3,
                failed_invocations=1,
                success_rate=0.75,
                total_tokens=1100,
                total_cost_usd=1.0,
                unpriced_usages=1,
                last_error="ruff failed",
                last_active=NOON.astimezone(timezone(timedelta(hours=2))),
            ),
        },
    )


def test_the_totals_of_the_project() -> None:
    found = overview(make_state())
    agents = found.pop("agents")
    assert found == {
        "project": "demo",
        "updated_at": "2026-01-02T12:00:00Z",
        "total_sessions": 3,
        "total_tokens": 1200,
        "input_tokens": 1000,
        "output_tokens": 200,
        "cache_read_tokens": 700,
        "cache_write_tokens": 20,
        "total_cost_usd": 1.25,
        "unpriced_usages": 2,
        "usages": 9,
        "other_events": 4,
        "runs": 5,
    }
    assert len(agents) == 3


def test_agents_stand_with_the_last_active_first() -> None:
    agents = overview(make_state())["agents"]
    assert [agent["agent_name"] for agent in agents] == ["coding", "early", "idle"]
    assert agents[0] == {
        "agent_name": "coding",
        "runs": 4,
        "success_rate": 0.75,
        "total_tokens": 1100,
        "total_cost_usd": 1.0,
        "unpriced_usages": 1,
        "last_active": "2026-01-02T12:00:00Z",
        "last_error": "ruff failed",
    }


def test_an_agent_without_runs_has_no_success_rate() -> None:
    idle = overview(make_state())["agents"][2]
    assert idle["success_rate"] is None
    assert idle["last_active"] is None


def test_the_state_is_left_as_it_was_and_the_result_is_json() -> None:
    state = make_state()
    before = msgspec.json.encode(state)
    found = overview(state)
    assert msgspec.json.decode(msgspec.json.encode(found)) == found
    assert msgspec.json.encode(state) == before
