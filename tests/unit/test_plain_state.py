from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tallymark.state import AgentProfile, DashboardState, FinishedRun
from tallymarkd.core.plain_state import REQUIRED, state_from

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)


def plain(**more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "version": 1,
        "project_name": "p",
        "created_at": T0,
        "updated_at": "2026-01-01T12:00:00Z",
        "total_sessions": 0,
        "total_tokens": 0,
        "total_cost_usd": 0.0,
        "total_duration_seconds": 0.0,
        "agents": {},
        "events": [],
        "sessions": [],
    }
    return given | more


def test_the_required_fields_are_the_established_ones() -> None:
    assert plain().keys() == REQUIRED
    assert DashboardState.__struct_fields__[: len(REQUIRED)] == tuple(plain())


@pytest.mark.parametrize(
    "given",
    [
        "2026-01-01T12:00:00Z",
        "2026-01-01T12:00:00",
        "2026-01-01 12:00:00",
        "2026-01-01T14:00:00+02:00",
        T0,
        T0.replace(tzinfo=None),
        T0.astimezone(timezone(timedelta(hours=-7))),
    ],
)
def test_times_are_in_utc_whatever_they_were(given: Any) -> None:
    found = state_from(
        plain(created_at=given, agents={"a": {"agent_name": "a", "last_active": given}})
    )

    assert found.created_at == T0
    assert found.created_at.tzinfo is UTC
    assert found.agents["a"].last_active == T0


@pytest.mark.parametrize("given", ["", None])
def test_no_time_is_none(given: Any) -> None:
    found = state_from(plain(events=[{"event_id": "e", "agent_name": "a", "started_at": given}]))

    assert found.events[0].started_at is None


def test_null_is_the_default() -> None:
    event = {
        "event_id": "e",
        "agent_name": "a",
        "ticket_key": None,
        "artifacts": None,
        "attrs": None,
    }
    (found,) = state_from(plain(events=[event])).events

    assert found == FinishedRun(event_id="e", agent_name="a")


def test_unknown_fields_of_a_run_are_kept_beside_those_that_were() -> None:
    event = {"event_id": "e", "agent_name": "a", "mood": "good", "extra": {"old": 1}}
    (found,) = state_from(plain(events=[event])).events

    assert found.extra == {"mood": "good", "old": 1}


def test_structs_and_dicts_may_be_mixed_and_nothing_is_shared() -> None:
    profile = AgentProfile(agent_name="a", achievements=["first"])
    found = state_from(plain(agents={"a": profile}))
    found.agents["a"].achievements.append("second")

    assert profile.achievements == ["first"]
    assert state_from(found) == found


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (plain(total_tokens="x"), "Expected `int`, got `str` - at `$.total_tokens`"),
        (plain(agents=None, events=None), "it lacks agents, events"),
        (plain(total_cost_usd=float("inf")), "total_cost_usd is inf"),
        (plain(agents={"a": {"agent_name": "a", "total_cost_usd": float("nan")}}), "is nan"),
        (plain(created_at="12 o'clock"), "Invalid RFC3339"),
        ("text", "a mapping is needed, not str"),
        (plain(agents={"a": object()}), "cannot use the state"),
    ],
)
def test_what_is_wrong_is_said(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match="cannot use the state") as caught:
        state_from(wrong)
    assert message in str(caught.value)


def test_what_contains_itself_is_refused() -> None:
    endless = plain()
    endless["agents"]["a"] = endless

    with pytest.raises(ValueError, match="cannot use the state"):
        state_from(endless)


def test_an_agent_is_named_by_its_key() -> None:
    found = state_from(plain(agents={"coding": {"xp": 3}}))

    assert found.agents == {"coding": AgentProfile(agent_name="coding", xp=3)}


def test_a_run_of_nobody_is_kept() -> None:
    assert state_from(plain(events=[{"event_id": "e"}])).events[0].agent_name == ""


@pytest.mark.parametrize(
    "wrong", [{"version": 2}, {"project_name": "\ud800"}, {"events": [{"event_id": "\udfff"}]}]
)
def test_what_could_not_be_read_again_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot use the state"):
        state_from(plain(**wrong))
