"""The events that agents report, as msgspec Structs.

On the wire an event is a msgpack (over HTTP: JSON) map with its ``type``
among its fields; absent fields have their default. Unknown fields are
allowed, kept in the journal and given back. Times are timezone-aware
``datetime`` in UTC; tokens are counts; money is US dollars.

``input_tokens`` includes what was read from and written to a cache, and
``output_tokens`` includes reasoning, as in OpenTelemetry's semantic
conventions for generative AI.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

EVENT_BYTES_MAX = 64 * 1024
"""Largest encoded event. Part of the protocol: never configured lower."""

EVENT_DEPTH_MAX = 100
"""Most maps and arrays of an event within one another, itself included."""

TEXT_CHARS_MAX = 4096
"""Longest free text; what is longer is cut by the daemon and marked."""

ID_CHARS_MAX = 512
"""Longest identifier; a longer one is refused, since a cut id is another id."""

ARTIFACTS_MAX = 1000
"""Most artifacts of one run."""

TOKENS_MAX = 10**12
COST_USD_MAX = 1e6
DURATION_SECONDS_MAX = 1e9

Text = Annotated[str, Meta(max_length=TEXT_CHARS_MAX)]
Id = Annotated[str, Meta(max_length=ID_CHARS_MAX)]
Tokens = Annotated[int, Meta(ge=0, le=TOKENS_MAX)]
CostUSD = Annotated[float, Meta(ge=0, le=COST_USD_MAX)]
Seconds = Annotated[float, Meta(ge=0, le=DURATION_SECONDS_MAX)]
Time = Annotated[datetime, Meta(tz=True)]
Pid = Annotated[int, Meta(ge=0, le=2**31 - 1)]

RunStatus = Literal["success", "error", "timeout", "blocked"]
SessionType = Literal["initializer", "continuation"]
SessionStatus = Literal["continue", "error", "complete"]


class EventBase(
    msgspec.Struct,
    kw_only=True,
    omit_defaults=True,
    tag_field="type",
    forbid_unknown_fields=True,
    gc=False,  # an event is a tree; many thousands of them would keep the collector busy
):
    """What every event has.

    ``event_id`` names this event; the client fills it. ``dedupe_key`` names
    the thing counted: a second event of the project with the same key is a
    duplicate and changes nothing. ``source`` says which program observed it.

    These Structs refuse unknown fields, so that decoding tells when there are
    some; the daemon then takes the event apart and keeps them.
    """

    event_id: Id = ""
    at: Time | None = None
    agent_name: Id = ""
    session_id: Id = ""
    run_id: Id = ""
    project: Id = ""
    source: Text = ""
    dedupe_key: Id = ""
    attrs: dict[str, Any] | None = None


class Usage(EventBase, tag="usage", kw_only=True, omit_defaults=True):
    """One model response. An absent cost is computed by the daemon."""

    model_used: Text = ""
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    estimated_cost_usd: CostUSD | None = None
    cost_source: Text = ""


class RunStart(EventBase, tag="run.start", kw_only=True, omit_defaults=True):
    """An agent begins a run. Optional: tells who runs now, and who was killed."""

    parent_run_id: Id = ""
    ticket_key: Text = ""
    model_used: Text = ""
    cwd: Text = ""
    git_branch: Text = ""
    host: Text = ""
    pid: Pid = 0


class RunEnd(EventBase, tag="run.end", kw_only=True, omit_defaults=True):
    """One finished run of one agent, complete in itself.

    Its ``event_id`` is its run id. A run that had ``usage`` events takes its
    tokens and cost from them, and what stands here is not added.
    ``total_tokens`` is the sum of input and output when it is absent.
    ``artifacts`` are ``kind:value``, as in ``commit:abc123``.
    """

    parent_run_id: Id = ""
    ticket_key: Text = ""
    started_at: Time | None = None
    ended_at: Time | None = None
    duration_seconds: Seconds | None = None
    status: RunStatus = "success"
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    total_tokens: Tokens | UnsetType = UNSET
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    estimated_cost_usd: CostUSD | None = None
    cost_source: Text = ""
    artifacts: Annotated[list[Text], Meta(max_length=ARTIFACTS_MAX)] = msgspec.field(
        default_factory=list
    )
    error_message: Text = ""
    model_used: Text = ""
    cwd: Text = ""
    git_branch: Text = ""
    host: Text = ""


class SessionStart(EventBase, tag="session.start", kw_only=True, omit_defaults=True):
    """A session begins: a span of work in which agents run."""

    session_type: SessionType | None = None


class SessionEnd(EventBase, tag="session.end", kw_only=True, omit_defaults=True):
    """A session ends, or pauses to be continued."""

    status: SessionStatus = "complete"


Event = Usage | RunStart | RunEnd | SessionStart | SessionEnd
"""Any event of a type that this version knows."""

EVENT_TYPES: dict[str, type[Event]] = {
    "usage": Usage,
    "run.start": RunStart,
    "run.end": RunEnd,
    "session.start": SessionStart,
    "session.end": SessionEnd,
}
