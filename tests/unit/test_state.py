from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from tallymark.state import AgentProfile, DashboardState, FinishedRun, SessionSummary

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)


def state(**more: Any) -> DashboardState:
    return DashboardState(project_name="p", created_at=T0, updated_at=T0, **more)


def a_run(**more: Any) -> FinishedRun:
    return FinishedRun(event_id="e", agent_name="coding", **more)


def test_it_reads_like_the_file() -> None:
    found = state(events=[a_run(started_at=T0)], agents={"a": AgentProfile(agent_name="a")})
    file = msgspec.json.decode(msgspec.json.encode(found))

    assert dict(msgspec.to_builtins(found)) == file
    assert found["updated_at"] == file["updated_at"] == "2026-01-01T12:00:00Z"
    assert found["events"][0]["started_at"] == file["events"][0]["started_at"]
    assert found["events"][0]["ended_at"] is None
    assert {**found["events"][0]} == file["events"][0] == dict(found["events"][0].items())
    assert list(found) == list(file) == list(found.keys())
    assert found["agents"]["a"].values() == list(file["agents"]["a"].values())
    assert len(found) == len(file)


def test_a_time_is_a_datetime_as_an_attribute_and_the_files_text_by_name() -> None:
    found = state()
    found["updated_at"] = "2026-01-02T03:04:05.678901+02:00"
    assert found.updated_at == datetime(2026, 1, 2, 1, 4, 5, 678901, UTC)
    assert found["updated_at"] == found.get("updated_at") == "2026-01-02T01:04:05.678901Z"
    found["updated_at"] = T0.astimezone(timezone(timedelta(hours=5)))
    assert found["updated_at"] == "2026-01-01T12:00:00Z"
    found["updated_at"] = datetime(2026, 1, 3)  # noqa: DTZ001  # as older programs have it
    assert found.updated_at == datetime(2026, 1, 3, tzinfo=UTC)
    profile = AgentProfile(agent_name="a", last_active=T0)
    profile["last_active"] = ""
    assert profile.last_active is None


def test_what_is_no_time_is_left_for_whoever_saves_it() -> None:
    found = state()
    for wrong in ("yesterday", 5):
        found["created_at"] = wrong
        assert found["created_at"] == wrong


def test_a_name_that_is_no_field() -> None:
    found = state()
    assert "mood" not in found
    assert "events" in found
    assert found.get("mood", 7) == 7
    with pytest.raises(KeyError, match="mood"):
        found["mood"]
    with pytest.raises(KeyError, match="mood"):
        found["mood"] = 1


def test_what_dicts_can_do_beside() -> None:
    found = state()
    found.update({"total_tokens": 5}, updated_at="2026-02-01T00:00:00Z")
    assert (found.total_tokens, found.updated_at.month) == (5, 2)
    with pytest.raises(KeyError, match="mood"):
        found.update(mood="good")
    found.setdefault("agents", {})["coding"] = AgentProfile(agent_name="coding")
    with pytest.raises(KeyError, match="mood"):
        found.setdefault("mood", 1)
    other = found.copy()
    other["total_tokens"] = 6
    assert (found.total_tokens, other.total_tokens) == (5, 6)
    assert other.agents is found.agents


def test_it_equals_the_dict_that_says_the_same() -> None:
    plain = {
        "event_id": "e",
        "agent_name": "coding",
        "ticket_key": None,
        "started_at": "2026-01-01T14:00:00+02:00",
        "ended_at": "",
    }
    run = a_run(started_at=T0)

    assert run == plain
    assert plain == run
    assert [plain] == [run]
    assert state(events=[run])["events"] == [plain]
    assert SessionSummary(session_id="s") == {"session_id": "s", "status": "continue"}
    assert run == a_run(started_at=T0)


@pytest.mark.parametrize(
    "other",
    [
        {"event_id": "e", "agent_name": "coding", "status": "error"},
        {"event_id": "e", "agent_name": "coding", "total_tokens": 1},
        {"event_id": "e", "agent_name": "coding", "started_at": "2026-01-01T12:00:01Z"},
        {"event_id": "e", "agent_name": "coding", "total_tokens": None},
        {"event_id": "e", "agent_name": "coding", "mood": "good"},
        {"event_id": "e"},
        {},
        {1: 2},
        [],
        "e",
        None,
        FinishedRun(event_id="f", agent_name="coding"),
        SessionSummary(session_id="e"),
    ],
)
def test_it_equals_nothing_else(other: object) -> None:
    assert a_run() != other
    assert other != a_run()


def test_it_cannot_be_a_key() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(a_run())
