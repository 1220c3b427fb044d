"""Finished runs, and the tokens and money that they and others carry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import UnsetType

from tallymark.events import RunEnd, RunStart
from tallymark.state import AgentProfile, DashboardState, FinishedRun, SessionSummary
from tallymarkd.core.plain import plain_dict

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
        if self.nanos:
            total.total_cost_usd = add_nanos(total.total_cost_usd, sign * self.nanos)
        if self.unpriced_usages:
            total.unpriced_usages += sign * self.unpriced_usages


NOTHING = Tally()


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
