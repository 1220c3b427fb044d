"""What ``tallymark verify`` says; its JSON is this, field by field."""

from __future__ import annotations

from typing import Literal

import msgspec

from tallymarkd.core.recount import Counts, ProducerCounts
from tallymarkd.core.recovery_report import RecoveryReport

Code = Literal["lost", "history", "corrupt", "damaged", "disagrees"]
"""``lost`` numbers that may have been acknowledged; ``history`` the same, and the totals
have what stood there; ``corrupt`` bytes of the journal
that cost no number; ``damaged`` state files or index, which the next start makes
again; ``disagrees`` two files that are whole and cannot both be right."""


class Finding(msgspec.Struct, kw_only=True):
    """Something that must not be."""

    code: Code
    message: str


class SegmentPart(msgspec.Struct, kw_only=True):
    """One segment. ``header`` is ``whole``, ``one copy``, ``guessed`` or ``unreadable``."""

    number: int
    path: str
    bytes: int
    header: str
    first_lsn: int
    last_lsn: int
    records: int = 0
    damage: list[str] = []


class JournalPart(msgspec.Struct, kw_only=True):
    """The journal. It holds numbers beyond ``begins_after_lsn`` through ``end_lsn``;
    ``clean`` when the daemon had stopped in good order."""

    clean: bool = True
    begins_after_lsn: int = 0
    end_lsn: int = 0
    proven_lsn: int = 0
    torn_bytes: int = 0
    records: dict[str, int] = {}
    segments: list[SegmentPart] = []


class GenerationPart(msgspec.Struct, kw_only=True):
    """One generation of a state file. ``agrees`` says whether it is what replaying the
    journal gives; null where that cannot be told, and ``reason`` says why."""

    path: str
    whole: bool
    applied_lsn: int = 0
    agrees: bool | None = None
    reason: str = ""


class StateFilePart(msgspec.Struct, kw_only=True):
    """A state file, its generations newest first. The daemon's own has no project."""

    name: str
    project: str = ""
    generations: list[GenerationPart] = []


class IndexPart(msgspec.Struct, kw_only=True):
    """The index of keys. ``agrees`` when it has the keys of the journal, no more and no less."""

    state: Literal["whole", "damaged", "absent"] = "absent"
    keys: int = 0
    through_lsn: int = 0
    agrees: bool | None = None


class VerifyReport(msgspec.Struct, kw_only=True):
    """Everything that was looked at.

    ``events`` were counted from the journal's records alone, ``ledger`` is what
    ``server.json`` says, and ``after_ledger`` what the journal has beyond it.
    ``known`` are losses and damage that a start has told before. ``history_lost`` is
    that part of ``events.lost`` which the totals have: it is gone from the history only.
    """

    state_dir: str
    verdict: Literal["whole", "unclean", "damaged"] = "whole"
    findings: list[Finding] = []
    known: list[str] = []
    notes: list[str] = []
    journal: JournalPart = msgspec.field(default_factory=JournalPart)
    events: Counts = msgspec.field(default_factory=Counts)
    producers: dict[str, ProducerCounts] = {}
    ledger: Counts | None = None
    history_lost: int = 0
    after_ledger: Counts = msgspec.field(default_factory=Counts)
    ledger_agrees: bool | None = None
    state_files: list[StateFilePart] = []
    index: IndexPart = msgspec.field(default_factory=IndexPart)
    quarantine: list[str] = []
    last_start: RecoveryReport | None = None

    def find(self, code: Code, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(code=code, message=message))
