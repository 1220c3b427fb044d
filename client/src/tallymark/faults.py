"""What makes an event unacceptable beyond the types of its fields, and what is cut.

The daemon admits events by this; who wants to know before sending asks the same.
"""

from __future__ import annotations

from typing import Any, Literal, TypeGuard

import msgspec

from tallymark.events import (
    EVENT_TYPES,
    TEXT_CHARS_MAX,
    Event,
    RunEnd,
    RunStart,
    SessionEnd,
    SessionStart,
    Usage,
)
from tallymark.texts import shortened

FaultCode = Literal["wrong_project", "cache_exceeds_input", "missing_field", "invalid_field"]

ID_FIELDS = ("event_id", "agent_name", "session_id", "run_id", "parent_run_id", "project",
             "dedupe_key")  # fmt: skip
"""Fields that are never cut: a cut id is another id."""


REQUIRED: dict[type[Event], tuple[str, ...]] = {
    RunStart: ("agent_name", "run_id"),
    RunEnd: ("agent_name",),
    SessionStart: ("session_id",),
    SessionEnd: ("session_id",),
}


def find_fault(event: Event, project: str) -> tuple[FaultCode, str] | None:
    """Why an event of this project would be refused, as code and message; None when it is well.

    An id that the sender fills in later must stand there already.
    """
    if event.project and event.project != project:
        return "wrong_project", f"`project` is {event.project!r}, the sender's is {project!r}"
    if isinstance(event, RunEnd | Usage):
        cached = event.cache_read_tokens + event.cache_write_tokens
        if cached > event.input_tokens:
            message = (
                f"`cache_read_tokens` + `cache_write_tokens` = {cached} exceed `input_tokens` = "
                f"{event.input_tokens}, which includes them"
            )
            return "cache_exceeds_input", message
    for name in missing_fields(event):
        return "missing_field", f"`{name}` is missing"
    if event.attrs is not None:
        return _attrs_fault(event.attrs)
    return None


def missing_fields(event: Event) -> tuple[str, ...]:
    """The fields without which such an event means nothing and is refused."""
    required = REQUIRED.get(type(event))
    if required is None:
        return ()
    missing = tuple(name for name in required if not getattr(event, name))
    if event.event_id and "run_id" in missing:  # a run may be named by its event
        return tuple(name for name in missing if name != "run_id")
    return missing


def _attrs_fault(attrs: dict[str, Any]) -> tuple[FaultCode, str] | None:
    """State files are JSON, so what has no form in JSON cannot be kept."""
    try:
        msgspec.json.encode(attrs)
    except (TypeError, ValueError, RecursionError) as error:
        return "invalid_field", f"`attrs` cannot be written as JSON: {error}"
    return None


def cut_texts(fields: dict[str, Any]) -> bool:
    """Cut, with a mark, every free text of an event that is over its limit.

    ``fields`` are the event's, its ``type`` among them, and are changed in place;
    lists are not. True when something was cut.
    """
    kind = fields.get("type")
    known = EVENT_TYPES.get(kind) if isinstance(kind, str) else None
    found = False
    for name in known.__struct_fields__ if known else ():
        value = fields.get(name)
        if _is_long(value) and name not in ID_FIELDS:
            fields[name] = shortened(value)
            found = True
        elif name == "artifacts" and isinstance(value, list) and any(map(_is_long, value)):
            fields[name] = [shortened(item) if _is_long(item) else item for item in value]
            found = True
    return found


def _is_long(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) > TEXT_CHARS_MAX
