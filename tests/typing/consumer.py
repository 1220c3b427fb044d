"""A program of a user, checked with mypy --strict against the installed wheels.

It is not run. Where a type is asserted, an ``Any`` that leaked out of the
library would be an error as much as another type.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import assert_type

from tallymark import AsyncClient, Client, DashboardState
from tallymark.compat import AgentMetricsCollector, AgentTracker
from tallymark.errors import FlushTimeout, TallymarkError
from tallymark.events import RunEnd, Usage
from tallymark.state import AgentProfile, FinishedRun


def record() -> int:
    with Client() as client:
        session_id = client.start_session(session_type="initializer")
        assert_type(session_id, str)
        with client.track_agent(
            "coding", ticket_key="AI-46", model="claude-sonnet-4-5", session_id=session_id
        ) as run:
            run.add_tokens(input_tokens=1000, output_tokens=2000)
            run.add_artifact("commit:abc123")
            assert_type(run.environment(), dict[str, str])
        client.end_session(session_id, status="complete")
        try:
            client.flush(timeout=5.0)
        except FlushTimeout as error:
            assert_type(error.pending_events, int)
            return error.pending_events
    return 0


def decorate(client: Client) -> int:
    @client.track_session("continuation")
    @client.track_agent("coding")
    def work(number: int, *, plus: int = 0) -> int:
        return number + plus

    with client.track_session() as session:
        assert_type(session.session_id, str)
        assert_type(session.environment(), dict[str, str])
    return work(1, plus=2)


def collect() -> None:
    collector = AgentMetricsCollector("my-project", metrics_dir=".")
    session_id = collector.start_session()
    with collector.track_agent("coding", "AI-46", "claude-sonnet-4-5", session_id) as tracker:
        assert_type(tracker, AgentTracker)
        tracker.add_tokens(1000, 2000)
    collector.end_session(session_id)


def emit() -> None:
    client = Client("my-project", socket="/run/tallymark/tallymark.sock")
    client.emit(Usage(agent_name="coding", model_used="gpt-5", input_tokens=10, output_tokens=2))
    client.emit(
        RunEnd(
            agent_name="coding", status="timeout", ended_at=datetime.now(UTC), artifacts=["pr:#42"]
        )
    )
    client.close()


def read(client: Client) -> list[str]:
    state = client.dump()
    assert_type(state, DashboardState)
    assert_type(state.events, list[FinishedRun])
    assert_type(state.agents, dict[str, AgentProfile])
    return [f"{name}: {profile.total_cost_usd:.2f}" for name, profile in state.agents.items()]


async def record_async() -> None:
    async with AsyncClient("my-project") as client:
        async with client.track_agent("coding") as run:
            run.add_tokens(input_tokens=1, output_tokens=2)
        await client.flush(timeout=5.0)
        assert_type(await client.dump(), DashboardState)


def explain(error: TallymarkError) -> str:
    return str(error)
