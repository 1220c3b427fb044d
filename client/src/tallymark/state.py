"""The state of one project, as dashboards read it.

The Structs here are the shape of ``.agent_metrics.json``. They can be read
and written like the plain dicts of that file as well (``state["events"]``),
so that a program written for the dicts works with them: as an attribute a time
is a ``datetime``, by name it is the text that the file has, and a Struct equals
the dict that it was made from.

All totals are lifetime figures; ``events`` and ``sessions`` hold the newest
500 and 50. Money is US dollars, exact to a nano-dollar as long as a sum stays
below four million dollars (2**53 nano-dollars are 9 million; half of it keeps
the rounding of a float out). Every total shows beside it how many usages had
no price and are left out of it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

EVENTS_MAX = 500
"""Newest finished runs kept in the live state."""

SESSIONS_MAX = 50
"""Newest sessions kept in the live state."""

RECENT_EVENTS_MAX = 20
"""Newest run ids kept in an agent's profile."""

STATE_VERSION = 1


TIME_FIELDS = frozenset({"created_at", "updated_at", "started_at", "ended_at", "last_active"})

_ZONE = re.compile(r"(?:[zZ]|[+-]\d\d:?\d\d)$")


def time_from(value: Any) -> Any:
    """The time in UTC; without a zone it was UTC. What is no time comes back as it is."""
    if isinstance(value, str):
        try:
            value = msgspec.convert(value if _ZONE.search(value) else value + "Z", datetime)
        except msgspec.ValidationError:
            return value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        try:
            return value.astimezone(UTC)
        except OverflowError:
            return None
    return value


class StateStruct(msgspec.Struct, kw_only=True):
    """A Struct that can also be read, written and compared like a dict of the file."""

    def __getitem__(self, name: str) -> Any:
        if name not in self.__struct_fields__:
            raise KeyError(name)
        value = getattr(self, name)
        return msgspec.to_builtins(value) if isinstance(value, datetime) else value

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self.__struct_fields__:
            raise KeyError(name)
        setattr(self, name, _time_or_none(value) if name in TIME_FIELDS else value)

    def __contains__(self, name: object) -> bool:
        return name in self.__struct_fields__

    def __iter__(self) -> Iterator[str]:
        return iter(self.__struct_fields__)

    def __len__(self) -> int:
        return len(self.__struct_fields__)

    def __eq__(self, other: object) -> bool:
        """A dict is equal that says the same; fields that it lacks have their defaults."""
        if not isinstance(other, Mapping):
            return super().__eq__(other)
        try:
            return super().__eq__(type(self)(**{name: _own(self, other, name) for name in other}))
        except TypeError:  # a name that is no field, or one that must be there is not
            return False

    __hash__ = None  # type: ignore[assignment]  # it can change

    def keys(self) -> tuple[str, ...]:
        """Names of the fields, in the order of the file."""
        return self.__struct_fields__

    def values(self) -> list[Any]:
        """What ``state[name]`` gives for each of ``keys``."""
        return [self[name] for name in self.__struct_fields__]

    def items(self) -> list[tuple[str, Any]]:
        """``keys`` with their ``values``."""
        return [(name, self[name]) for name in self.__struct_fields__]

    def get(self, name: str, default: Any = None) -> Any:
        """The field's value, or ``default`` for a name that is no field."""
        return self[name] if name in self.__struct_fields__ else default

    def setdefault(self, name: str, default: Any = None) -> Any:  # as dicts have it
        """The field's value: every field has one."""
        return self[name]

    def update(self, values: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Set several fields. Raises ``KeyError`` for a name that is no field."""
        for name, value in {**(values or {}), **more}.items():
            self[name] = value

    def copy(self) -> Self:
        """Another one with the same values, which both share."""
        return copy.copy(self)


def _time_or_none(value: Any) -> Any:
    """Older files write an empty text where there is no time."""
    return None if value == "" else time_from(value)


def _own(struct: StateStruct, given: Mapping[str, Any], name: str) -> Any:
    """What a dict has under a name, as a Struct would hold it."""
    value = given[name]
    if name in TIME_FIELDS:
        return _time_or_none(value)
    if value is None:  # older files write null where there is no text
        return "" if getattr(struct, name, None) == "" else None
    return value


class FinishedRun(StateStruct, kw_only=True):
    """One finished run of one agent.

    The fields from ``parent_run_id`` on are newer; a file without them is
    read with their defaults. ``extra`` holds fields of the event that this
    version does not know.
    """

    event_id: str
    agent_name: str
    session_id: str = ""
    ticket_key: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_seconds: float = 0.0
    status: str = "success"
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    estimated_cost_usd: float = 0.0
    artifacts: list[str] = msgspec.field(default_factory=list)
    error_message: str = ""
    model_used: str = ""
    parent_run_id: str = ""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_source: str = ""
    unpriced_usages: int = 0
    tokens_from: str = "run.end"
    source: str = ""
    cwd: str = ""
    git_branch: str = ""
    host: str = ""
    attrs: dict[str, Any] = msgspec.field(default_factory=dict)
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


class AgentProfile(StateStruct, kw_only=True):
    """Lifetime figures of one agent, by the name that people know it by."""

    agent_name: str
    total_invocations: int = 0
    successful_invocations: int = 0
    failed_invocations: int = 0
    total_tokens: int = 0
    total_cost_usd: float = 0.0
    total_duration_seconds: float = 0.0
    commits_made: int = 0
    prs_created: int = 0
    prs_merged: int = 0
    files_created: int = 0
    files_modified: int = 0
    lines_added: int = 0
    lines_removed: int = 0
    tests_written: int = 0
    issues_created: int = 0
    issues_completed: int = 0
    messages_sent: int = 0
    reviews_completed: int = 0
    success_rate: float = 0.0
    avg_duration_seconds: float = 0.0
    avg_tokens_per_call: float = 0.0
    cost_per_success_usd: float = 0.0
    xp: int = 0
    level: int = 0
    current_streak: int = 0
    best_streak: int = 0
    achievements: list[Any] = msgspec.field(default_factory=list)
    strengths: list[Any] = msgspec.field(default_factory=list)
    weaknesses: list[Any] = msgspec.field(default_factory=list)
    recent_events: list[str] = msgspec.field(default_factory=list)
    last_error: str = ""
    last_active: datetime | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    unpriced_usages: int = 0


class SessionSummary(StateStruct, kw_only=True):
    """One session. While it is open its status is ``continue`` and ``ended_at``
    the time of its last event."""

    session_id: str
    session_number: int = 0
    session_type: str = "continuation"
    started_at: datetime | None = None
    ended_at: datetime | None = None
    status: str = "continue"
    agents_invoked: list[str] = msgspec.field(default_factory=list)
    total_tokens: int = 0
    total_cost_usd: float = 0.0
    tickets_worked: list[str] = msgspec.field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    unpriced_usages: int = 0


class DashboardState(StateStruct, kw_only=True):
    """The state of one project."""

    version: int = STATE_VERSION
    project_name: str
    created_at: datetime
    updated_at: datetime
    total_sessions: int = 0
    total_tokens: int = 0
    total_cost_usd: float = 0.0
    total_duration_seconds: float = 0.0
    agents: dict[str, AgentProfile] = msgspec.field(default_factory=dict)
    events: list[FinishedRun] = msgspec.field(default_factory=list)
    sessions: list[SessionSummary] = msgspec.field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    usages: int = 0
    unpriced_usages: int = 0
    other_events: int = 0
