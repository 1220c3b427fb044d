"""Whether an event can be recorded at all, for who waits until it is.

What an event must be is said once, by its types and ``faults``, and the daemon goes by
the same; a test holds the two against one another.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tallymark.errors import UsageError
from tallymark.events import (
    EVENT_BYTES_MAX,
    EVENT_DEPTH_MAX,
    EVENT_TYPES,
    ID_CHARS_MAX,
    Event,
)
from tallymark.faults import ID_FIELDS, cut_texts, find_fault
from tallymark.protocol.nesting import is_deep

_plain: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
_fields = msgspec.msgpack.Decoder(dict[str, Any])

_DECODE_ERRORS = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, TypeError)


def check_event(raw: bytes, project: str) -> None:
    """Raise ``UsageError`` for an encoded event, with all that it needs, that the daemon
    of this project would refuse for good."""
    if len(raw) > EVENT_BYTES_MAX:
        raise _cannot(f"it has {len(raw)} bytes and the limit is {EVENT_BYTES_MAX}")
    event = _decoded(raw)
    fault = None if event is None else find_fault(event, project)
    if fault is not None:
        raise _cannot(fault[1])


def _decoded(raw: bytes) -> Event | None:
    """The event; None for one of a type that is not known here."""
    try:
        event: Event = _plain.decode(raw)
    except _DECODE_ERRORS:
        return _taken_apart(raw)
    if event.attrs and is_deep(event.attrs, 2):
        raise _too_deep()
    return event


def _taken_apart(raw: bytes) -> Event | None:
    """Likewise, of one with fields that are not known here, or with text that will be cut."""
    try:
        fields = _fields.decode(raw)
    except _DECODE_ERRORS as error:
        raise _cannot(str(error)) from None
    if is_deep(fields, 1):
        raise _too_deep()
    kind = fields.get("type")
    if not isinstance(kind, str) or not kind:
        raise _cannot("it has no `type`")
    known = EVENT_TYPES.get(kind)
    if known is None:
        return None
    cut_texts(fields)
    kept = {name: fields[name] for name in (*known.__struct_fields__, "type") if name in fields}
    try:
        event: Event = msgspec.convert(kept, known)
    except msgspec.ValidationError as error:
        raise _cannot(_named(fields, str(error))) from None
    return event


def _named(fields: dict[str, Any], fault: str) -> str:
    for name in ID_FIELDS:
        value = fields.get(name)
        if isinstance(value, str) and len(value) > ID_CHARS_MAX:
            return f"`{name}` has {len(value)} characters and the limit is {ID_CHARS_MAX}"
    return fault


def _too_deep() -> UsageError:
    return _cannot(f"it is nested deeper than the {EVENT_DEPTH_MAX} levels that are allowed")


def _cannot(cause: str) -> UsageError:
    return UsageError(f"cannot record the event: {cause}")
