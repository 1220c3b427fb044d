"""What the journal adds up to: every project's state, producers' marks, the ledger.

``Books`` changes only by journal records, in their order, in the running daemon
and in replay alike. Loop thread only.
"""

from __future__ import annotations

import uuid
from collections.abc import Container
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, Protocol

import msgspec

from tallymark.record import NO_PRODUCER, Kind, Record
from tallymarkd.core.apply import ProjectState, apply, empty
from tallymarkd.core.entry import Batch, Entry, decode_entry, open_entry
from tallymarkd.core.ledger import (
    LOSSES_MAX,
    OTHER_REASONS,
    SKIP_REASONS_MAX,
    Loss,
    Mark,
    ServerState,
    count_verdicts,
)
from tallymarkd.storage.survey import Damage


@lru_cache(maxsize=4096)
def producer_text(producer: bytes) -> str:
    """A record's producer as text; empty where there is none."""
    return "" if producer in (b"", NO_PRODUCER) else str(uuid.UUID(bytes=producer))


class Control(Protocol):
    """What a record without events says; a journal record or a durable ticket."""

    @property
    def kind(self) -> int: ...
    @property
    def lsn(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def producer(self) -> bytes: ...
    @property
    def seq(self) -> int: ...
    @property
    def from_seq(self) -> int | None: ...
    @property
    def payload(self) -> bytes: ...


class Skipped(NamedTuple):
    """What a client announced as lost, and whose it was: a producer's id says nothing."""

    loss: Loss
    project: str
    uid: int

    def text(self) -> str:
        """In a person's words."""
        return f"{self.project} (uid {self.uid}): {self.loss.text()}"


class Books:
    """All state. ``projects`` by name, ``server`` for the rest.

    ``new_losses`` counts what was found missing since these books were opened,
    ``losses`` are the first of it. What clients announced as lost is not among it:
    that is counted in ``new_skips``, and ``skips`` are the last of it.
    """

    def __init__(self, server: ServerState, projects: dict[str, ProjectState]) -> None:
        self.server = server
        self.projects = projects
        self.touched: set[str] = set()
        self.new_losses = 0
        self.losses: list[Loss] = []
        self.new_skips = 0
        self.skips: list[Skipped] = []

    def record(self, record: Record) -> Entry | None:
        """Take in one record of the journal, as replay does; gives its entry.

        Whatever a file has seen already (by its ``applied_lsn``) is left out.
        """
        if record.kind in (Kind.BATCH, Kind.TOMBSTONE):
            return self._replay_batch(record)
        if record.lsn > self.server.applied_lsn:
            self.control(record)
        elif record.kind == Kind.LOSS and self._is_lacked(record.lsn):
            self._lose(record)
        return None

    def control(self, record: Control) -> None:
        """A durable record that has no events: a skip, a loss, a Goodbye, a mark."""
        if record.kind == Kind.SKIP:
            self._skip(record)
        elif record.kind == Kind.FORGET:
            self.server.marks.pop(producer_text(record.producer), None)
        elif record.kind == Kind.LOSS:
            self._lose(record)
        self.server.applied_lsn = record.lsn + record.count - 1

    def _replay_batch(self, record: Record) -> Entry | None:
        try:
            entry = decode_entry(record.payload)
        except msgspec.MsgspecError as error:
            self._lose_unreadable(record, str(error))
            return None
        project = self.projects.get(entry.project)
        if project is None or project.applied_lsn < record.lsn:
            batch = open_entry(entry) if record.kind == Kind.BATCH else None
            self.batch(record.lsn, record.count, record.producer, record.seq, entry, batch)
        elif record.lsn > self.server.applied_lsn:
            self.count(record.lsn, record.count, record.producer, record.seq, entry)
        return entry

    def batch(
        self, lsn: int, count: int, producer: bytes, seq: int, entry: Entry, batch: Batch | None
    ) -> None:
        """A durable batch: apply its events, then count it. None is a tombstone's."""
        if batch is None:
            received_at = datetime.fromtimestamp(entry.received_ns / 1e9, UTC)
            batch = Batch([None] * count, received_at=received_at, verdicts=entry.verdicts)
        state = self.projects.get(entry.project)
        if state is None:
            state = self.projects[entry.project] = empty(entry.project, batch.received_at)
        apply(state, batch, lsn)
        self.touched.add(entry.project)
        if lsn > self.server.applied_lsn:
            self.count(lsn, count, producer, seq, entry)

    def count(self, lsn: int, count: int, producer: bytes, seq: int, entry: Entry) -> None:
        """A durable batch in the ledger and in its producer's mark."""
        server = self.server
        server.first_lsn.setdefault(entry.project, lsn)
        server.applied_lsn = server.last_lsn[entry.project] = lsn + count - 1
        mark = None
        if seq:
            mark = self._move(producer_text(producer), seq, entry.project, entry.uid)
        if entry.verdicts:
            count_verdicts(server.ledger, mark, entry.verdicts)
            return
        for counted in (server.ledger, mark):
            if counted is not None:
                counted.received += count
                counted.stored += count

    def _move(self, producer: str, seq: int, project: str, uid: int) -> Mark:
        mark = self.server.marks.get(producer)
        if mark is None:
            mark = self.server.marks[producer] = Mark(0, project, uid)
        if seq > mark.seq + 1 and not self._named(producer, mark.seq + 1, seq - 1):
            self._miss(
                Loss(
                    reason="seqs are missing from the journal",
                    producer=producer,
                    from_seq=mark.seq + 1,
                    through_seq=seq - 1,
                )
            )
        mark.seq = max(mark.seq, seq)
        mark.contact_seconds = self.server.running_seconds
        return mark

    def _named(self, producer: str, from_seq: int, through_seq: int) -> bool:
        """Whether damaged records, one or several together, have told of these seqs already."""
        ranges = sorted(
            (loss.from_seq, loss.through_seq)
            for loss in self.server.ledger.losses
            if loss.producer == producer
        )
        for first, last in ranges:
            if first > from_seq:
                break
            from_seq = max(from_seq, last + 1)
        return from_seq > through_seq

    def _skip(self, record: Control) -> None:
        notice = msgspec.json.decode(record.payload, type=SkipNotice)
        name = producer_text(record.producer)
        mark = self.server.marks.get(name)
        if mark is None:
            mark = self.server.marks[name] = Mark(0, notice.project, notice.uid)
        mark.seq = max(mark.seq, record.seq)
        mark.contact_seconds = self.server.running_seconds
        mark.skipped += notice.events
        ledger = self.server.ledger
        ledger.skipped += notice.events
        known = notice.reason in ledger.skips or len(ledger.skips) < SKIP_REASONS_MAX
        reason = notice.reason if known else OTHER_REASONS
        ledger.skips[reason] = ledger.skips.get(reason, 0) + notice.events
        loss = Loss(reason=notice.reason, producer=name, from_seq=record.from_seq or 0,
                    through_seq=record.seq, events=notice.events)  # fmt: skip
        self._name(loss)
        self.new_skips += 1
        self.skips = [*self.skips, Skipped(loss, notice.project, notice.uid)][-LOSSES_MAX:]

    def _lose(self, record: Control) -> None:
        damage = msgspec.json.decode(record.payload, type=Damage)
        self.server.ledger.lost += damage.events
        self._miss(
            Loss(
                reason=damage.reason,
                producer=producer_text(damage.producer),
                from_seq=damage.from_seq,
                through_seq=damage.through_seq,
                events=damage.events,
                from_lsn=damage.from_lsn,
                through_lsn=damage.through_lsn,
            )
        )

    def _is_lacked(self, lsn: int) -> bool:
        """Whether the ledger has seen a number, and some project's state has not, and
        nobody was told of it yet."""
        return not self._told(lsn, lsn) and any(
            last >= lsn and (name not in self.projects or self.projects[name].applied_lsn < lsn)
            for name, last in self.server.last_lsn.items()
        )

    def _told(self, from_lsn: int, through_lsn: int) -> bool:
        """Whether a loss among these numbers stands in the ledger."""
        return any(
            loss.from_lsn <= through_lsn and from_lsn <= loss.through_lsn
            for loss in self.server.ledger.losses
        )

    def miss(self, from_lsn: int, through_lsn: int, reason: str) -> None:
        """State needs numbers that the journal does not have any more."""
        self._miss(Loss(reason=reason, from_lsn=from_lsn, through_lsn=through_lsn))

    def give_up_behind(self) -> None:
        """After replay: no state file waits any longer for what the journal does not have.

        So that it is told once, and not again by every start to come.
        """
        server = self.server
        behind = {
            name: (state.applied_lsn if state else 0, last)
            for name, last in server.last_lsn.items()
            if (state := self.projects.get(name)) is None or state.applied_lsn < last
        }
        untold = [name for name, (reach, last) in behind.items() if not self._told(reach + 1, last)]
        for name in untold:
            reach, last = behind[name]
            self.miss(reach + 1, last, f"the journal does not have what {name} lacks")
        for name, (_, last) in behind.items():
            if name in self.projects:
                self.projects[name].applied_lsn = last
                self.touched.add(name)
            else:
                del server.last_lsn[name]
                server.first_lsn.pop(name, None)

    def expire_marks(self, older_than_seconds: float, keep: Container[str] = ()) -> int:
        """Forget producers not heard of for so long (of running time); gives how many.

        Those in ``keep`` are connected, or have a spool.
        """
        server = self.server
        limit = server.running_seconds - older_than_seconds
        old = [
            name
            for name, mark in server.marks.items()
            if mark.contact_seconds < limit and name not in keep
        ]
        for name in old:
            del server.marks[name]
        return len(old)

    def _lose_unreadable(self, record: Record, reason: str) -> None:
        if record.lsn <= self.server.applied_lsn:
            return
        self.server.applied_lsn = record.last_lsn
        self.server.ledger.lost += record.count
        self._miss(
            Loss(reason=f"cannot read a record: {reason}", producer=producer_text(record.producer),
                 from_seq=record.from_seq, through_seq=record.seq, events=record.count,
                 from_lsn=record.lsn, through_lsn=record.last_lsn)
        )  # fmt: skip

    def _miss(self, loss: Loss) -> None:
        self.new_losses += 1
        if len(self.losses) < LOSSES_MAX:
            self.losses.append(loss)
        self._name(loss)

    def _name(self, loss: Loss) -> None:
        losses = self.server.ledger.losses
        losses.append(loss)
        del losses[:-LOSSES_MAX]


class SkipNotice(msgspec.Struct, kw_only=True):
    """The payload of a SKIP record."""

    events: int
    reason: str
    project: str
    uid: int
