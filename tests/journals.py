"""Journals for tests: made in a file system in memory, opened as the daemon opens them."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from pathlib import Path

from tallymark.fs import FileSystem, read_file
from tallymark.record import Kind, Record
from tallymarkd.storage.journal import Journal, JournalSettings
from tallymarkd.storage.recovery import open_journal
from tallymarkd.storage.segment import segment_name
from tallymarkd.storage.survey import Damage, Survey, refuse_newer, survey
from tests.memory_fs import MemoryFs

ROOT = Path("/state")
JOURNAL = ROOT / "journal"
QUARANTINE = ROOT / "quarantine"
SPARE = JOURNAL / "spare"
SERVER_ID = bytes(range(16))

SEGMENT_BYTES = 16 * 1024
CHUNK_BYTES = 4 * 1024


def settings(
    segment_bytes: int = SEGMENT_BYTES, chunk_bytes: int = CHUNK_BYTES, seed: int = 1
) -> JournalSettings:
    """Small sizes, and random bytes and times that come again."""
    clock = itertools.count(1_700_000_000_000_000_000, 1_000_000_000)
    return JournalSettings(
        segment_bytes_max=segment_bytes,
        segment_chunk_bytes=chunk_bytes,
        random_bytes=random.Random(seed).randbytes,
        clock_ns=lambda: next(clock),
    )


def segment(number: int) -> Path:
    """The path of a segment."""
    return JOURNAL / segment_name(number)


@dataclass
class Opened:
    """A journal after recovery, and what the recovery found."""

    journal: Journal
    found: Survey

    def records(self, after_lsn: int = 0) -> list[Record]:
        return list(self.found.records(after_lsn))

    def events(self, after_lsn: int = 0) -> list[tuple[int, bytes]]:
        """(LSN, payload) of every batch."""
        return [(r.lsn, r.payload) for r in self.records(after_lsn) if r.kind == Kind.BATCH]

    def losses(self) -> list[Record]:
        return [record for record in self.records() if record.kind == Kind.LOSS]

    @property
    def damage(self) -> list[Damage]:
        return self.found.report.damage


@dataclass
class Machine:
    """One state directory through any number of starts."""

    fs: FileSystem = field(default_factory=MemoryFs)
    settings: JournalSettings = field(default_factory=settings)

    def start(
        self, *, evidence_lsn: int = 0, read_after_lsn: int = 0, next_lsn_min: int = 0
    ) -> Opened:
        """Steps 1 to 4 of recovery."""
        refuse_newer(self.fs, JOURNAL)
        found = survey(self.fs, JOURNAL, evidence_lsn=evidence_lsn, read_after_lsn=read_after_lsn)
        journal = open_journal(
            self.fs, JOURNAL, found, self.settings, server_id=SERVER_ID, quarantine=QUARANTINE,
            next_lsn_min=next_lsn_min,
        )  # fmt: skip
        return Opened(journal, found)

    def look(self, *, evidence_lsn: int = 0) -> Survey:
        """Steps 1 and 2 only."""
        refuse_newer(self.fs, JOURNAL)
        return survey(self.fs, JOURNAL, evidence_lsn=evidence_lsn)

    def file(self, number: int) -> bytes:
        """A segment's bytes."""
        return read_file(self.fs, segment(number))


def commit(journal: Journal, *payloads: bytes) -> list[tuple[int, bytes]]:
    """Append batches of one event, and sync; gives (LSN, payload) of each."""
    written = [(journal.append(Kind.BATCH, payload), payload) for payload in payloads]
    journal.sync()
    return written


def stop(journal: Journal) -> None:
    """Stop in good order."""
    journal.append(Kind.STOP, b"")
    journal.sync()
    journal.close()


def fill(journal: Journal, segments: int) -> list[tuple[int, bytes]]:
    """Commit until the active segment is the ``segments``-th after this one."""
    goal = journal.active_number + segments
    written: list[tuple[int, bytes]] = []
    while journal.active_number < goal:
        written += commit(journal, b"payload %6d " % len(written) + b"x" * 1000)
    return written


def flipped(data: bytes, at: int, length: int = 1) -> bytes:
    """The bytes with some of them turned over."""
    changed = bytearray(data)
    for index in range(at, at + length):
        changed[index] ^= 0xFF
    return bytes(changed)


def zeroed(data: bytes, at: int, length: int) -> bytes:
    """The bytes with some of them gone to zero."""
    return data[:at] + bytes(length) + data[at + length :]
