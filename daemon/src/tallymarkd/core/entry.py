"""What a journal record of a batch holds: the payload and what was decided.

An ``Entry`` is written once, by admission, and obeyed ever after: replay reads
the verdicts from it and never decides again.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from tallymark.events import EVENT_TYPES, Event
from tallymark.protocol.nesting import is_deep
from tallymarkd.core.sums import Sums


class Verdict(enum.IntEnum):
    """What admission decided about one event; one byte in the record.

    The numbers are part of the storage format: never reused, never renumbered.
    """

    STORED = 0
    DUPLICATE = 1
    MALFORMED = 2
    INVALID_FIELD = 3
    TOO_LARGE = 4
    ID_TOO_LONG = 5
    CACHE_EXCEEDS_INPUT = 6
    WRONG_PROJECT = 7
    MISSING_FIELD = 8
    BAD_BATCH = 9

    @property
    def code(self) -> str:
        """The verdict's name on the wire and in reports."""
        return self.name.lower()

    @property
    def rejected(self) -> bool:
        """Whether the event was refused for good."""
        return self > Verdict.DUPLICATE


class Cost(msgspec.Struct, array_like=True, frozen=True):
    """A price that admission computed: integer nano-dollars, and where from."""

    nanos: int
    source: str


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One batch as the journal keeps it.

    ``events`` is the msgpack array of events as it came; it is encoded again
    only when admission had to change it (``cut``). ``verdicts`` has one byte
    for each event, or is empty when all were stored. ``ids`` and ``costs`` are
    what admission assigned, by the event's index. ``keys`` are the hashes, 8
    little-endian bytes each, by which the stored events are known from now on.
    """

    project: str
    received_ns: int
    uid: int
    events: msgspec.Raw
    count: int
    verdicts: bytes = b""
    ids: dict[int, str] = {}
    costs: dict[int, Cost] = {}
    cut: list[int] = []
    keys: bytes = b""


class OtherEvent(msgspec.Struct):
    """A stored event of a type that this version does not know."""

    type: str
    fields: dict[str, Any]


class Batch:
    """A decoded entry, ready to apply. ``events`` holds None for what was not stored,
    ``extras`` the fields that are not known, by the event's index.

    One that was condensed has ``sums`` and the ``raw`` bytes of its events, which are
    decoded again should anybody ask for ``events``.
    """

    __slots__ = (
        "_events",
        "costs",
        "count",
        "extras",
        "ids",
        "raw",
        "received_at",
        "sums",
        "verdicts",
    )

    def __init__(
        self,
        events: list[Event | OtherEvent | None],
        *,
        received_at: datetime,
        verdicts: bytes = b"",
        ids: dict[int, str] | None = None,
        costs: dict[int, Cost] | None = None,
        extras: dict[int, dict[str, Any]] | None = None,
    ) -> None:
        self._events: list[Event | OtherEvent | None] | None = events
        self.count = len(events)
        self.sums: Sums | None = None
        self.raw: msgspec.Raw | None = None
        self.received_at = received_at
        self.verdicts = verdicts
        self.ids = ids or {}
        self.costs = costs or {}
        self.extras = extras if extras is not None else {}

    @property
    def events(self) -> list[Event | OtherEvent | None]:
        """The events; None for each that was not stored."""
        if self._events is None:
            assert self.raw is not None
            self._events = list(decode_events(self.raw))
        return self._events

    def condense(self, sums: Sums, raw: msgspec.Raw) -> None:
        """Let go of the events, all of which were stored: ``sums`` says what they add up to."""
        self.sums, self.raw, self._events = sums, raw, None


DECODE_ERRORS = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, TypeError)
"""What msgspec raises for bytes that cannot be decoded: the first for most, the
others for nesting, text that is no UTF-8, and a map used as the key of a map."""

_encoder = msgspec.msgpack.Encoder()
_entry_decoder = msgspec.msgpack.Decoder(Entry)
_events_decoder = msgspec.msgpack.Decoder(list[Event])
_raws_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_map_decoder = msgspec.msgpack.Decoder(dict[str, Any])
_field_names = {
    name: frozenset((*kind.__struct_fields__, "type")) for name, kind in EVENT_TYPES.items()
}
_type_decoders: dict[str, msgspec.msgpack.Decoder[Event]] = {
    name: msgspec.msgpack.Decoder(kind) for name, kind in EVENT_TYPES.items()
}


def encode_entry(entry: Entry) -> bytes:
    """The entry as a record's payload."""
    return _encoder.encode(entry)


def decode_entry(payload: bytes | memoryview) -> Entry:
    """The entry in a record's payload. Raises ``msgspec.MsgspecError``."""
    return _entry_decoder.decode(payload)


def split_events(events: bytes | memoryview | msgspec.Raw) -> list[msgspec.Raw]:
    """Each event's own bytes. Raises ``msgspec.MsgspecError`` if it is no array."""
    try:
        return _raws_decoder.decode(events)
    except DECODE_ERRORS as error:
        raise msgspec.DecodeError(str(error)) from None


def join_events(parts: Sequence[bytes | msgspec.Raw]) -> bytes:
    """The array of these events, which is what ``split_events`` takes apart."""
    return b"\xdd" + len(parts).to_bytes(4, "big") + b"".join(map(bytes, parts))


def decode_events(events: bytes | memoryview | msgspec.Raw) -> list[Event]:
    """All events, when every one is valid and plain. Raises one of ``DECODE_ERRORS``."""
    return _events_decoder.decode(events)


def decode_event(
    raw: bytes | memoryview | msgspec.Raw,
) -> tuple[Event | OtherEvent, dict[str, Any]]:
    """One event, of whatever type, and its fields that are not known.

    Raises ``msgspec.MsgspecError``.
    """
    try:
        fields = _map_decoder.decode(raw)
    except DECODE_ERRORS as error:
        raise msgspec.DecodeError(str(error)) from None
    kind = fields.get("type")
    if not isinstance(kind, str) or not kind:
        raise msgspec.ValidationError("Object missing required field `type`")
    known = EVENT_TYPES.get(kind)
    if known is None:
        return OtherEvent(kind, fields), {}
    names = _field_names[kind]
    extra = {name: value for name, value in fields.items() if name not in names}
    if not extra:
        return _type_decoders[kind].decode(raw), {}
    kept = {name: value for name, value in fields.items() if name in names}
    return msgspec.convert(kept, known), extra


def is_event_deep(event: Event | OtherEvent, extra: dict[str, Any]) -> bool:
    """Whether an event, with its fields that are not known, is nested too deeply."""
    if isinstance(event, OtherEvent):
        return is_deep(event.fields, 1)
    return is_deep(extra, 1) or is_deep(event.attrs or {}, 2)


def open_entry(entry: Entry) -> Batch:
    """Decode an entry's stored events, as replay does.

    What was stored decoded once already; should it not decode now, the event
    is None and counted by ``apply`` as it would have been then.
    """
    received_at = datetime.fromtimestamp(entry.received_ns / 1e9, UTC)
    if not entry.verdicts:
        try:
            found: list[Event | OtherEvent | None] = list(decode_events(entry.events))
            return Batch(found, received_at=received_at, ids=entry.ids, costs=entry.costs)
        except DECODE_ERRORS:
            pass
    events, extras = _decode_stored(entry)
    return Batch(
        events,
        received_at=received_at,
        verdicts=entry.verdicts,
        ids=entry.ids,
        costs=entry.costs,
        extras=extras,
    )


def _decode_stored(
    entry: Entry,
) -> tuple[list[Event | OtherEvent | None], dict[int, dict[str, Any]]]:
    events: list[Event | OtherEvent | None] = []
    extras: dict[int, dict[str, Any]] = {}
    for index, raw in enumerate(split_events(entry.events)):
        events.append(None)
        if entry.verdicts and entry.verdicts[index] != Verdict.STORED:
            continue
        try:
            events[index], extra = decode_event(raw)
        except msgspec.MsgspecError:
            continue
        if extra:
            extras[index] = extra
    return events, extras
