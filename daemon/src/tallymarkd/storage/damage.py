"""What is said of bytes that do not verify: torn, or lost, and whose they were.

Damage beyond E, the highest number proven to have been durable, is *torn*: it
was never acknowledged. Damage that may reach E or below is *corrupt*; a LOSS
record is put in its place, so that the loss is counted in the order of the
journal, once.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tallymark.record import NO_PRODUCER, Kind, Record
from tallymarkd.storage.segment import Gap

LSN_JUMP = 2**20
"""Numbers left out after an unclean stop: more than one commit can have held."""

RESTORED = "restored on "
"""What the reason begins with where a restore tells what its backup does not have."""

KINDS_WITH_EVENTS = (Kind.BATCH, Kind.TOMBSTONE)


class Damage(msgspec.Struct, kw_only=True, frozen=True):
    """Bytes that do not verify, or records that are missing.

    ``from_lsn`` to ``through_lsn`` are the numbers that stood there, as far as
    the neighbours tell; none when ``through_lsn`` is the smaller. ``events`` is
    exact when the damaged record's header still verifies (then its producer is
    known too), else the most it can be, and 0 when not even that is known.
    """

    segment: int
    start: int
    end: int
    from_lsn: int
    through_lsn: int
    torn: bool
    reason: str
    producer: bytes = b""
    from_seq: int = 0
    through_seq: int = 0
    events: int = 0

    @property
    def restored(self) -> bool:
        """Whether nothing is damaged: a restore has left these numbers out, because its
        backup does not have them."""
        return not self.segment and self.reason.startswith(RESTORED)

    @property
    def numbers(self) -> int:
        """How many numbers it covers."""
        return max(0, self.through_lsn - self.from_lsn + 1)


def known_damage(segment: int, gap: Gap, record: Record) -> Damage:
    """A record whose payload is gone and whose header tells all else."""
    return Damage(
        segment=segment,
        start=gap.offset,
        end=gap.end,
        from_lsn=record.lsn,
        through_lsn=record.last_lsn,
        torn=False,
        reason=gap.reason,
        producer=record.producer,
        from_seq=record.from_seq,
        through_seq=record.seq,
        events=events_of(record),
    )


def unknown_damage(
    segment: int,
    start: int,
    end: int,
    from_lsn: int,
    through_lsn: int,
    reason: str,
    *,
    counted: bool = True,
) -> Damage:
    """Bytes, or records, of which only the numbers around them are known.

    Without ``counted`` not even those are.
    """
    numbers = through_lsn - from_lsn + 1
    return Damage(
        segment=segment,
        start=start,
        end=end,
        from_lsn=from_lsn,
        through_lsn=through_lsn,
        torn=False,
        reason=reason,
        # After a jump, or where no bound is known, the count would say nothing.
        events=numbers if counted and 0 < numbers < LSN_JUMP else 0,
    )


def torn_damage(segment: int, gap: Gap, rest: Iterable[Record | Gap], last_lsn: int) -> Damage:
    """The tail of the journal from ``gap`` on; ``rest`` is what follows the gap."""
    items = [gap, *rest]
    heads = [head for item in items if (head := head_of(item)) is not None]
    one = heads[0] if len(heads) == 1 else None
    return Damage(
        segment=segment,
        start=gap.offset,
        end=max(item.end for item in items),
        from_lsn=last_lsn + 1,
        through_lsn=max([last_lsn, *(head.last_lsn for head in heads)]),
        torn=True,
        reason=gap.reason,
        producer=one.producer if one else b"",
        from_seq=one.from_seq if one else 0,
        through_seq=one.seq if one else 0,
        events=sum(events_of(head) for head in heads),
    )


def head_of(item: Record | Gap) -> Record | None:
    """The record of which at least the header verifies."""
    return item if isinstance(item, Record) else item.known


def events_of(record: Record) -> int:
    """How many events a record carries."""
    return record.count if record.kind in KINDS_WITH_EVENTS else 0


def loss_record(damage: Damage, last_lsn: int) -> Record:
    """What stands in the journal for numbers that are lost.

    It takes the last of them, so that whoever has seen the journal only up to
    somewhere in between still counts the loss.
    """
    return Record(
        kind=Kind.LOSS,
        lsn=damage.through_lsn,
        count=1,
        durable_lsn=last_lsn,
        producer=damage.producer or NO_PRODUCER,
        seq=damage.through_seq,
        from_seq=damage.from_seq,
        prev_crc=0,
        payload=msgspec.json.encode(damage),
        crc=0,
        offset=damage.start,
    )
