"""Events that come as JSON, made into the batches that the engine takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tallymark.events import EVENT_TYPES, ID_CHARS_MAX
from tallymark.protocol.messages import BATCH_EVENTS_MAX
from tallymarkd.core.admission import Fault
from tallymarkd.core.entry import join_events
from tallymarkd.text import json_fault

_encoder = msgspec.msgpack.Encoder()


class PostFault(Exception):
    """An event that cannot be taken, before it reached admission."""

    def __init__(self, index: int, code: str, message: str) -> None:
        super().__init__(message)
        self.index = index
        self.code = code

    def as_dict(self) -> dict[str, Any]:
        """The fault as the response names it."""
        return {"index": self.index, "code": self.code, "message": str(self)}


@dataclass(slots=True)
class Posted:
    """A request's events by project, and where each stood in the request.

    ``unknown_types`` counts, by type, those that are kept and stand in no total.
    """

    batches: list[tuple[str, bytes, int]]
    event_ids: list[str]
    unknown_types: dict[str, int] = field(default_factory=dict)
    _places: list[list[int]] = field(default_factory=list)

    def stored(self, stored: int, duplicate: int) -> dict[str, Any]:
        """The response once all of it is durable."""
        found = {"stored": stored, "duplicate": duplicate, "event_ids": self.event_ids}
        # Only who misspelt a type, or is newer than this daemon, has something to read here.
        return {**found, "unknown_types": self.unknown_types} if self.unknown_types else found

    def fault(self, fault: Fault) -> dict[str, Any]:
        """An admission's fault as the response names it."""
        return {
            "index": self._places[fault.batch][fault.index],
            "code": fault.verdict.code,
            "message": fault.message,
        }


def read_events(body: bytes, *, many: bool, project: str, new_id: Callable[[], str]) -> Posted:
    """The events of a request body; ``project`` is for those that name none.

    An event without ``event_id`` gets one, which the response tells. Raises
    ``PostFault`` naming the first event that cannot be taken.
    """
    lines = [line for line in body.split(b"\n") if line.strip()] if many else [body]
    if not lines:
        raise PostFault(0, "malformed", "there is no event in the body")
    if len(lines) > BATCH_EVENTS_MAX:
        raise PostFault(
            BATCH_EVENTS_MAX, "too_large", f"at most {BATCH_EVENTS_MAX} events are taken at once"
        )
    grouped: dict[str, list[tuple[int, bytes]]] = {}
    event_ids: list[str] = []
    unknown: Counter[str] = Counter()
    for index, line in enumerate(lines):
        fields = _fields(index, line)
        event_ids.append(_identify(index, fields, new_id))
        kind = fields.get("type")
        if isinstance(kind, str) and kind not in EVENT_TYPES:
            unknown[kind] += 1
        name = _project(index, fields, project)
        grouped.setdefault(name, []).append((index, _encode(index, fields)))
    return Posted(
        [
            (name, join_events([data for _, data in part]), len(part))
            for name, part in grouped.items()
        ],
        event_ids,
        dict(unknown),
        [[index for index, _ in part] for part in grouped.values()],
    )


def _fields(index: int, line: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise PostFault(index, "malformed", f"it is no JSON: {json_fault(error)}") from None
    if not isinstance(fields, dict):
        raise PostFault(index, "malformed", "it is no JSON object")
    return fields


def _identify(index: int, fields: dict[str, Any], new_id: Callable[[], str]) -> str:
    event_id = fields.get("event_id")
    if event_id is None or event_id == "":
        event_id = fields["event_id"] = new_id()
    if not isinstance(event_id, str):
        raise PostFault(index, "invalid_field", "`event_id` must be a string")
    return event_id


def _project(index: int, fields: dict[str, Any], default: str) -> str:
    name = fields.get("project") or default
    if not isinstance(name, str) or len(name) > ID_CHARS_MAX:
        message = f"`project` must be a string of at most {ID_CHARS_MAX} characters"
        raise PostFault(index, "invalid_field", message)
    if not name:
        raise PostFault(
            index, "missing_field", "`project` is missing: name it in the event or as ?project=NAME"
        )
    return name


def _encode(index: int, fields: dict[str, Any]) -> bytes:
    try:
        return _encoder.encode(fields)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise PostFault(index, "malformed", f"it cannot be kept: {error}") from None
