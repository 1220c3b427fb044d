"""A project's figures without its runs and sessions: what one screen shows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tallymark.state import AgentProfile, DashboardState
from tallymarkd.core.project_state import ProjectState

TOTALS = (
    "total_sessions",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "total_cost_usd",
    "unpriced_usages",
    "usages",
    "other_events",
)


def overview(state: DashboardState) -> dict[str, Any]:
    """Plain values only, ready for JSON. Agents stand with the last active first.

    ``success_rate`` is between 0 and 1, and None for an agent without a
    finished run. Pure; the state is not kept.
    """
    agents = sorted(state.agents.values(), key=_last_active_first)
    return {
        "project": state.project_name,
        "updated_at": _time(state.updated_at),
        **{name: getattr(state, name) for name in TOTALS},
        "runs": sum(agent.total_invocations for agent in agents),
        "agents": [_agent(agent) for agent in agents],
    }


def _agent(agent: AgentProfile) -> dict[str, Any]:
    return {
        "agent_name": agent.agent_name,
        "runs": agent.total_invocations,
        "success_rate": agent.success_rate if agent.total_invocations else None,
        "total_tokens": agent.total_tokens,
        "total_cost_usd": agent.total_cost_usd,
        "unpriced_usages": agent.unpriced_usages,
        "last_active": _time(agent.last_active),
        "last_error": agent.last_error,
    }


def _last_active_first(agent: AgentProfile) -> tuple[float, str]:
    active = agent.last_active
    return (-active.timestamp() if active is not None else float("inf"), agent.agent_name)


def _time(time: datetime | None) -> str | None:
    if time is None:
        return None
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def evicted_runs(state: ProjectState) -> int:
    """Finished runs that were counted and have left the live state for newer ones."""
    finished = sum(agent.total_invocations for agent in state.agents.values())
    return max(0, finished - len(state.runs))
