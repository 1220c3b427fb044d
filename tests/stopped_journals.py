"""A journal of two segments whose daemon stops, in one way or another."""

from __future__ import annotations

from dataclasses import dataclass

from tallymark.record import Kind
from tallymarkd.storage.journal import Journal
from tests.journals import Machine, Opened, commit, fill, segment, zeroed
from tests.memory_fs import MemoryFs


@dataclass
class Case:
    """Two segments with what was committed, and the disk they are on."""

    disk: MemoryFs
    machine: Machine
    journal: Journal
    written: list[tuple[int, bytes]]

    def die(self) -> None:
        """The daemon is gone; what it had written is there."""
        self.disk = self.machine.fs = self.disk.after_kill()

    def start(self, *, evidence_lsn: int = 0) -> Opened:
        opened = self.machine.start(evidence_lsn=evidence_lsn)
        self.journal = opened.journal
        return opened

    @property
    def last(self) -> int:
        return self.written[-1][0]

    def change(self, number: int, data: bytes) -> None:
        self.disk.overwrite(segment(number), data)

    def tear(self) -> None:
        """A commit of two records of which half came to the disk."""
        before = len(self.machine.file(2).rstrip(b"\0"))
        self.journal.append(Kind.BATCH, b"torn" * 100)
        self.journal.append(Kind.BATCH, b"torn too" * 100)
        self.journal.sync()
        data = self.machine.file(2)
        self.change(2, zeroed(data, before + 300, len(data) - before - 300))


def two_segments() -> Case:
    """Nine commits, the last of them not proven by anything."""
    disk = MemoryFs()
    machine = Machine(disk)
    journal = machine.start().journal
    written = fill(journal, 1)
    written += commit(journal, b"a" * 90, b"b" * 90)
    written += commit(journal, b"c" * 90)
    return Case(disk, machine, journal, written)
