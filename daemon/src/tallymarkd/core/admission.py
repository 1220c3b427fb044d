"""A verdict for every event: stored, duplicate, or rejected with a code.

Permanent refusals consume the seq, so that one bad event harms neither its
neighbours nor what follows. The verdicts go into the record; replay obeys them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from tallymark.events import (
    EVENT_BYTES_MAX,
    EVENT_DEPTH_MAX,
    ID_CHARS_MAX,
    Event,
    RunEnd,
    Usage,
)
from tallymark.faults import ID_FIELDS, cut_texts, find_fault
from tallymark.protocol.nesting import NIL, is_deep, is_too_deep
from tallymarkd.core.entry import (
    DECODE_ERRORS,
    Batch,
    Cost,
    Entry,
    OtherEvent,
    Verdict,
    decode_event,
    decode_events,
    is_event_deep,
    split_events,
)
from tallymarkd.core.keys import Keys, key_hash, pack_keys
from tallymarkd.core.stretch import condense

_encoder = msgspec.msgpack.Encoder()
_fields_decoder = msgspec.msgpack.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one event was refused, for whoever sent it. ``batch`` counts from 0
    where several were decided about together."""

    index: int
    verdict: Verdict
    message: str
    batch: int = 0


@dataclass(slots=True)
class Decision:
    """What was decided about one batch. ``batch`` is None for a tombstone."""

    entry: Entry
    batch: Batch | None
    keys: list[int]
    faults: list[Fault] = field(default_factory=list)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many events are stored, duplicate, rejected."""
        verdicts = self.entry.verdicts
        if not verdicts:
            return self.entry.count, 0, 0
        stored = verdicts.count(Verdict.STORED)
        duplicate = verdicts.count(Verdict.DUPLICATE)
        return stored, duplicate, self.entry.count - stored - duplicate


PriceEvent = Callable[[Usage | RunEnd], Cost | None]
"""The cost of an event that came without one; None when it is not known."""


class Admission:
    """Decides about batches. Loop thread only."""

    def __init__(self, keys: Keys, price: PriceEvent, new_id: Callable[[], str]) -> None:
        self._keys = keys
        self._price = price
        self._new_id = new_id

    def decide(
        self,
        events: bytes | msgspec.Raw,
        count: int,
        *,
        project: str,
        uid: int,
        received_ns: int,
        key_by_id: bool = False,
    ) -> Decision:
        """Give every event of a batch its verdict.

        ``events`` is the msgpack array as it came. With ``key_by_id`` an event
        without a ``dedupe_key`` is known by its ``event_id``.
        """
        entry = Entry(
            project=project,
            received_ns=received_ns,
            uid=uid,
            events=msgspec.Raw(events),
            count=count,
        )
        try:
            work = _Work(entry)
        except msgspec.MsgspecError as error:
            return _tombstone(entry, f"the batch is no array of {count} events: {error}")
        if len(work.events) != count:
            return _tombstone(entry, f"{count} events were announced, {len(work.events)} came")
        keyed, incomplete = self._look_through(work, project, key_by_id=key_by_id)
        keys = self._find_duplicates(work, project, keyed) if keyed else []
        for index in incomplete:
            self._complete(work, index)
        return work.decision(keys)

    def _look_through(
        self, work: _Work, project: str, *, key_by_id: bool
    ) -> tuple[list[tuple[int, str]], list[int]]:
        """Refuse what cannot be right, beyond what decoding has found.

        Gives (index, key) of the events that have a key, and the indexes of
        those to which something must be added.
        """
        keyed: list[tuple[int, str]] = []
        incomplete: list[int] = []
        events = work.events
        for index in range(len(events)) if key_by_id else _worth_a_look(events):
            event = events[index]
            if event is None:
                continue
            if not isinstance(event, OtherEvent):
                fault = find_fault(event, project)
                if fault is not None:
                    code, message = fault
                    work.refuse(index, Verdict[code.upper()], message)
                    continue
                if isinstance(event, RunEnd | Usage) and (
                    event.estimated_cost_usd is None or not event.event_id
                ):
                    incomplete.append(index)
            key = _key(event, key_by_id=key_by_id)
            if key:
                keyed.append((index, key))
        return keyed, incomplete

    def _find_duplicates(
        self, work: _Work, project: str, keyed: list[tuple[int, str]]
    ) -> list[tuple[int, int]]:
        """Mark the events whose key was seen; gives (index, hash) of the others."""
        wanted = [(index, key_hash(project, key)) for index, key in keyed]
        seen = self._keys.known(hashed for _, hashed in wanted)
        fresh: list[tuple[int, int]] = []
        for index, hashed in wanted:
            if hashed in seen:
                work.verdict(index, Verdict.DUPLICATE)
            else:
                seen.add(hashed)
                fresh.append((index, hashed))
        return fresh

    def _complete(self, work: _Work, index: int) -> None:
        """Add what is missing: an id for a run, a cost for what has none."""
        event = work.events[index]
        if not isinstance(event, RunEnd | Usage):
            return
        entry = work.entry
        if isinstance(event, RunEnd) and not event.event_id and not event.run_id:
            entry.ids = {**entry.ids, index: self._new_id()}
        if event.estimated_cost_usd is None:
            cost = self._price(event)
            if cost is not None:
                entry.costs = {**entry.costs, index: cost}


class _Work:
    """One batch while it is decided about."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.events: list[Event | OtherEvent | None]
        self.faults: list[Fault] = []
        self._extras: dict[int, dict[str, Any]] = {}
        self._verdicts = bytearray()
        raws: list[msgspec.Raw] | None = None
        size = len(memoryview(entry.events))
        if size > EVENT_BYTES_MAX:
            raws = split_events(entry.events)
        if raws is None or _longest(raws) <= EVENT_BYTES_MAX:
            try:
                found = decode_events(entry.events)
                if not any(event.attrs and is_deep(event.attrs, 2) for event in found):
                    self.events = list(found)
                    return
            except DECODE_ERRORS:
                pass
        self._one_by_one(split_events(entry.events) if raws is None else raws)

    def _one_by_one(self, raws: list[msgspec.Raw]) -> None:
        """Some event is bad, cut or unknown: the others must not suffer."""
        self.events = []
        changed: dict[int, bytes] = {}
        for index, raw in enumerate(raws):
            self.events.append(None)
            self._take(index, raw, changed)
            if self.events[index] is None and is_too_deep(memoryview(raw)):
                # Read again elsewhere, there may be less room for nesting.
                changed[index] = NIL
        if changed:
            parts = [changed.get(index, raw) for index, raw in enumerate(raws)]
            self.entry.events = msgspec.Raw(_array(parts))
            self.entry.cut = sorted(changed)

    def _take(self, index: int, raw: msgspec.Raw, changed: dict[int, bytes]) -> None:
        if _length(raw) > EVENT_BYTES_MAX:
            message = f"{_length(raw)} bytes; at most {EVENT_BYTES_MAX} are allowed"
            self.refuse(index, Verdict.TOO_LARGE, message)
            return
        try:
            self._decode(index, raw)
        except msgspec.MsgspecError as error:
            self._mend(index, raw, str(error), changed)
        event = self.events[index]
        if event is not None and is_event_deep(event, self._extras.get(index, {})):
            self._extras.pop(index, None)
            message = f"nested deeper than the {EVENT_DEPTH_MAX} levels that are allowed"
            self.refuse(index, Verdict.MALFORMED, message)

    def _decode(self, index: int, raw: bytes | msgspec.Raw) -> None:
        self.events[index], extra = decode_event(raw)
        if extra:
            self._extras[index] = extra

    def _mend(self, index: int, raw: msgspec.Raw, reason: str, changed: dict[int, bytes]) -> None:
        """Cut texts that are too long, and try again; else refuse by name."""
        try:
            fields = _fields_decoder.decode(raw)
        except DECODE_ERRORS as error:
            self.refuse(index, Verdict.MALFORMED, str(error))
            return
        for name in ID_FIELDS:
            value = fields.get(name)
            if isinstance(value, str) and len(value) > ID_CHARS_MAX:
                self.refuse(index, Verdict.ID_TOO_LONG,
                            f"`{name}` has {len(value)} characters; "
                            f"at most {ID_CHARS_MAX} are allowed")  # fmt: skip
                return
        if not cut_texts(fields):
            self.refuse(index, Verdict.INVALID_FIELD, reason)
            return
        encoded = _encoder.encode(fields)
        try:
            self._decode(index, encoded)
            changed[index] = encoded
        except msgspec.MsgspecError as error:
            self.refuse(index, Verdict.INVALID_FIELD, str(error))

    def refuse(self, index: int, verdict: Verdict, message: str) -> None:
        self.faults.append(Fault(index, verdict, message))
        self.verdict(index, verdict)

    def verdict(self, index: int, verdict: Verdict) -> None:
        if not self._verdicts:
            self._verdicts = bytearray(self.entry.count)
        if index < len(self._verdicts):
            self._verdicts[index] = verdict
        self.events[index] = None

    def decision(self, keys: list[tuple[int, int]]) -> Decision:
        entry = self.entry
        entry.verdicts = bytes(self._verdicts)
        if keys:
            entry.keys = pack_keys(key for _, key in keys)
        batch = Batch(
            self.events,
            received_at=datetime.fromtimestamp(entry.received_ns / 1e9, UTC),
            verdicts=entry.verdicts,
            ids=entry.ids,
            costs=entry.costs,
            extras=self._extras,
        )
        condense(batch, entry.events)
        return Decision(entry, batch, [key for _, key in keys], self.faults)


def _tombstone(entry: Entry, message: str) -> Decision:
    """The batch cannot be split into its events: all of them are refused."""
    entry.verdicts = bytes([Verdict.BAD_BATCH]) * entry.count
    return Decision(entry, None, [], [Fault(0, Verdict.BAD_BATCH, message)])


_length: Callable[[msgspec.Raw], int] = len


def _longest(raws: list[msgspec.Raw]) -> int:
    return max(map(_length, raws), default=0)


def _worth_a_look(events: list[Any]) -> list[int]:
    """Indexes of all events but plain, complete runs: most need no closer look.

    One comprehension, since this is what every single event pays.
    """
    return [
        index
        for index, event in enumerate(events)
        if type(event) is not RunEnd
        or event.cache_read_tokens
        or event.cache_write_tokens
        or event.estimated_cost_usd is None
        or event.dedupe_key
        or event.project
        or event.attrs is not None
        or not event.event_id
        or not event.agent_name
    ]


def _key(event: Event | OtherEvent, *, key_by_id: bool) -> str:
    if isinstance(event, OtherEvent):
        key = _text(event.fields.get("dedupe_key"))
        event_id = _text(event.fields.get("event_id"))
    else:
        key, event_id = event.dedupe_key, event.event_id
    if not key and key_by_id and event_id:
        return f"event_id:{event_id}"
    return key


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _array(parts: list[Any]) -> bytes:
    return b"\xdd" + len(parts).to_bytes(4, "big") + b"".join(bytes(part) for part in parts)
