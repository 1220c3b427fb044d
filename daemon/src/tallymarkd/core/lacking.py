"""What a restored state lacks: what was stored after its backup.

The state that is replaced may still show it. Only what was *stored* is lacking: a
duplicate or a rejected event has changed nothing, there as here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from tallymark.record import NO_PRODUCER, Kind, Record
from tallymarkd.core.backup_manifest import Manifest
from tallymarkd.core.entry import Verdict, decode_entry
from tallymarkd.storage.damage import KINDS_WITH_EVENTS, RESTORED, Damage
from tallymarkd.storage.survey import Survey

PRODUCERS_TOLD_MAX = 50
"""Producers whose losses are told one by one; those of the others are told together."""


@dataclass(slots=True)
class _Lack:
    """What one producer had in the old journal, beyond the backup's end."""

    first: Record
    last: Record
    events: int = 0


class Lacking:
    """What a restore of this backup, at this time, is to tell."""

    def __init__(self, manifest: Manifest, now: datetime) -> None:
        self._manifest = manifest
        self.origin = f"{RESTORED}{now:%Y-%m-%d %H:%M:%S} UTC from the backup of "
        self.origin += manifest.begun_at

    @property
    def complete(self) -> str:
        """What is told of a restore after which nothing is known to be lacking."""
        if self._manifest.live:
            return f"{self.origin}; the state that it replaced had stored nothing more"
        return f"{self.origin}, which is complete: tallymarkd was stopped"

    def shown_by(self, old: Survey) -> list[Damage]:
        """What was stored in the old journal beyond the backup's end, for each producer.

        The numbers are those of all its batches there, so that none of its seqs is
        missing in between.
        """
        found: dict[bytes, _Lack] = {}
        for record in old.records(self._manifest.end_lsn):
            if record.kind in KINDS_WITH_EVENTS:
                lack = found.setdefault(record.producer, _Lack(record, record))
                lack.last = record
                lack.events += _stored_in(record)
        lacking = {whose: lack for whose, lack in found.items() if lack.events}
        told = list(lacking.items())[:PRODUCERS_TOLD_MAX]
        if rest := list(lacking.values())[PRODUCERS_TOLD_MAX:]:
            last = max(rest, key=lambda each: each.last.lsn).last
            told.append((NO_PRODUCER, _Lack(rest[0].first, last, sum(x.events for x in rest))))
        return [self._lack(whose, lack) for whose, lack in told]

    def _lack(self, producer: bytes, lack: _Lack) -> Damage:
        named = producer != NO_PRODUCER
        return self._damage(
            lack.first.lsn,
            lack.last.last_lsn,
            producer=producer,
            from_seq=lack.first.from_seq if named else 0,
            through_seq=lack.last.seq if named else 0,
            events=lack.events,
        )

    def unknown(self, through_lsn: int) -> list[Damage]:
        """Where nothing shows what came after it. A daemon that was stopped took nothing."""
        if not self._manifest.live:
            return []
        return [self._damage(self._manifest.end_lsn + 1, through_lsn)]

    def _damage(
        self,
        from_lsn: int,
        through_lsn: int,
        *,
        producer: bytes = b"",
        from_seq: int = 0,
        through_seq: int = 0,
        events: int = 0,
    ) -> Damage:
        return Damage(
            segment=0,
            start=0,
            end=0,
            from_lsn=from_lsn,
            through_lsn=through_lsn,
            torn=False,
            reason=f"{self.origin}; what was acknowledged after it is not there",
            producer=producer,
            from_seq=from_seq,
            through_seq=through_seq,
            events=events,
        )


def _stored_in(record: Record) -> int:
    """How many events of a record were stored; all that it can be where it does not say."""
    if record.kind != Kind.BATCH:
        return 0
    try:
        verdicts = decode_entry(record.payload).verdicts
    except msgspec.MsgspecError:
        return record.count
    return verdicts.count(Verdict.STORED) if verdicts else record.count
