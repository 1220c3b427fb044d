"""Counts events once more, from the journal's records alone.

This is the second opinion on the ledger: it shares no line with ``books.py``,
so that a mistake there does not repeat itself here.
"""

from __future__ import annotations

import uuid
from collections import Counter

import msgspec

from tallymark.record import Kind, Record
from tallymarkd.core.entry import Entry, Verdict, decode_entry, split_events
from tallymarkd.storage.survey import Damage


class Counts(msgspec.Struct, kw_only=True):
    """Events by what became of them. ``lost`` is the most that damage can have taken."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: dict[str, int] = {}
    skipped: int = 0
    lost: int = 0

    def add(self, other: Counts) -> None:
        """Take the other's events into this one."""
        self.received += other.received
        self.stored += other.stored
        self.duplicate += other.duplicate
        self.skipped += other.skipped
        self.lost += other.lost
        for code, count in other.rejected.items():
            self.rejected[code] = self.rejected.get(code, 0) + count

    def copy(self) -> Counts:
        """The same, for keeping."""
        return Counts(**{**msgspec.structs.asdict(self), "rejected": dict(self.rejected)})

    def minus(self, other: Counts) -> Counts:
        """What is in this one and not in the other; codes with nothing left are left out."""
        codes = {*self.rejected, *other.rejected}
        left = {code: self.rejected.get(code, 0) - other.rejected.get(code, 0) for code in codes}
        return Counts(
            received=self.received - other.received,
            stored=self.stored - other.stored,
            duplicate=self.duplicate - other.duplicate,
            rejected={code: left[code] for code in sorted(left) if left[code]},
            skipped=self.skipped - other.skipped,
            lost=self.lost - other.lost,
        )


class ProducerCounts(msgspec.Struct, kw_only=True):
    """What the journal has of one producer; ``missing`` are ranges of seqs that no
    record has, and no loss or skip tells of."""

    project: str = ""
    from_seq: int = 0
    through_seq: int = 0
    batches: int = 0
    said_goodbye: bool = False
    missing: list[tuple[int, int]] = []
    events: Counts = msgspec.field(default_factory=Counts)


class _Skip(msgspec.Struct):
    events: int
    project: str = ""


class Recount:
    """Takes every record of a journal, in order.

    ``whole`` says that the journal begins at its beginning: then a producer's
    first seq is 1.
    """

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self.total = Counts()
        self.producers: dict[str, ProducerCounts] = {}
        self.kinds: Counter[str] = Counter()
        self.last_lsn: dict[str, int] = {}
        self.unreadable: list[str] = []
        """Records whose checksum holds and which do not say what they should."""

    def take(self, record: Record) -> Entry | None:
        """Count one record; gives what a batch holds."""
        known = record.kind in {kind.value for kind in Kind}
        self.kinds[Kind(record.kind).name.lower() if known else f"kind {record.kind}"] += 1
        if record.kind in (Kind.BATCH, Kind.TOMBSTONE):
            return self._batch(record)
        if record.kind == Kind.SKIP:
            self._skip(record)
        elif record.kind == Kind.LOSS:
            self._loss(record)
        elif record.kind == Kind.FORGET and (name := _name(record.producer)) in self.producers:
            self.producers[name].said_goodbye = True
        return None

    def _batch(self, record: Record) -> Entry | None:
        producer = self._producer(record)
        try:
            entry = decode_entry(record.payload)
            found = _verdicts_of(record, entry)
        except (msgspec.MsgspecError, ValueError) as error:
            self._add(producer, Counts(lost=record.count))
            self.unreadable.append(f"the record of number {record.lsn}: {error}")
            return None
        self._add(producer, found)
        self.last_lsn[entry.project] = record.last_lsn
        if producer is not None:
            producer.project = entry.project
            producer.batches += 1
        return entry

    def _skip(self, record: Record) -> None:
        producer = self._producer(record)
        try:
            notice = msgspec.json.decode(record.payload, type=_Skip)
        except msgspec.MsgspecError as error:
            self.unreadable.append(f"the record of number {record.lsn}: {error}")
            return
        self._add(producer, Counts(skipped=notice.events))
        if producer is not None:
            producer.project = notice.project

    def _loss(self, record: Record) -> None:
        damage = msgspec.json.decode(record.payload, type=Damage)
        producer = self._producer(record) if record.seq else None
        self._add(producer, Counts(lost=damage.events))

    def _add(self, producer: ProducerCounts | None, counts: Counts) -> None:
        self.total.add(counts)
        if producer is not None:
            producer.events.add(counts)

    def _producer(self, record: Record) -> ProducerCounts | None:
        """Whose record it is, with its seqs noted."""
        if not record.seq:
            return None
        name = _name(record.producer)
        found = self.producers.get(name)
        if found is None or found.said_goodbye:
            first = 1 if self._whole else record.from_seq
            found = self.producers[name] = ProducerCounts(from_seq=first, through_seq=first - 1)
        if record.from_seq > found.through_seq + 1:
            found.missing.append((found.through_seq + 1, record.from_seq - 1))
        found.through_seq = max(found.through_seq, record.seq)
        return found


def _verdicts_of(record: Record, entry: Entry) -> Counts:
    """One count for each event. Raises ``ValueError`` where the numbers contradict."""
    if record.kind == Kind.BATCH:
        held = len(split_events(entry.events))
        if held != record.count:
            raise ValueError(f"it takes {record.count} numbers and holds {held} events")
    if not entry.verdicts:
        return Counts(received=record.count, stored=record.count)
    if len(entry.verdicts) != record.count:
        raise ValueError(f"it takes {record.count} numbers and has {len(entry.verdicts)} verdicts")
    tally = {Verdict(value): entry.verdicts.count(value) for value in sorted(set(entry.verdicts))}
    return Counts(
        received=record.count,
        stored=tally.pop(Verdict.STORED, 0),
        duplicate=tally.pop(Verdict.DUPLICATE, 0),
        rejected={verdict.code: count for verdict, count in tally.items()},
    )


def _name(producer: bytes) -> str:
    return str(uuid.UUID(bytes=producer))
