"""A journal of three segments, to be damaged in every way."""

from __future__ import annotations

from collections.abc import Callable

from tallymark.record import Kind, Record
from tallymarkd.storage.segment import decode_header, walk
from tallymarkd.storage.survey import Damage
from tests.journals import Machine, commit, fill, flipped, segment
from tests.memory_fs import MemoryFs

PRODUCER = bytes(range(16))


class Case:
    """Three segments with what was committed; ``last`` has commits of 2, 1 and 1 records."""

    def __init__(self) -> None:
        self.disk = MemoryFs()
        self.machine = Machine(self.disk)
        journal = self.machine.start().journal
        self.written = fill(journal, 2)
        self.last = self.written[-1:]
        self.last += commit(journal, b"a" * 90, b"b" * 90)
        self.last += [
            (journal.append(Kind.BATCH, b"c" * 90, count=5, producer=PRODUCER, seq=9), b"c" * 90)
        ]
        journal.sync()
        self.last += commit(journal, b"d" * 90)
        self.written += self.last[1:]
        self.journal = journal
        self.ends = [0, *(sealed.last_lsn for sealed in journal.sealed())]

    def record(self, number: int, index: int) -> Record:
        """A record of a segment as it was before any damage."""
        data = self.machine.file(number)
        items = [
            item for item in walk(data, decode_header(data)[0].salt) if isinstance(item, Record)
        ]
        return items[index]

    def change(self, number: int, change: Callable[[bytes], bytes]) -> None:
        self.disk.overwrite(segment(number), change(self.machine.file(number)))

    def flip(self, number: int, at: int) -> None:
        self.change(number, lambda data: flipped(data, at))

    def remove(self, number: int) -> None:
        self.disk.unlink(segment(number))

    def break_headers(self, number: int) -> None:
        self.change(number, lambda data: flipped(flipped(data, 20), 4096 + 20))

    def lost(self, evidence_lsn: int = 0) -> list[tuple[int, bytes]]:
        found = self.machine.look(evidence_lsn=evidence_lsn)
        events = [(r.lsn, r.payload) for r in found.records(0) if r.kind == Kind.BATCH]
        assert events == [pair for pair in self.written if pair in events]
        return [pair for pair in self.written if pair not in events]


def facts(damage: Damage) -> tuple[int, int, int, bool, int]:
    """Segment, first and last number, whether it is torn, how many events."""
    return damage.segment, damage.from_lsn, damage.through_lsn, damage.torn, damage.events
