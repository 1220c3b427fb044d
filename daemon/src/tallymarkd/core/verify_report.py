"""What ``tallymark verify`` says; its JSON is this, field by field."""

from __future__ import annotations

from typing import Literal

import msgspec

from tallymarkd.core.recount import Counts, ProducerCounts
from tallymarkd.core.recovery_report import RecoveryReport

INDEX_NAME = "index.sqlite"

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


class BackupPart(msgspec.Struct, kw_only=True):
    """The backup that was looked at: what its manifest says, and the files of it that are
    not what they were. ``live`` when tallymarkd ran while it was taken."""

    begun_at: str
    state_dir: str
    live: bool
    files: int
    size_bytes: int
    damaged: list[str] = []


class VerifyReport(msgspec.Struct, kw_only=True):
    """Everything that was looked at.

    ``events`` were counted from the journal's records alone, ``ledger`` is what
    ``server.json`` says, and ``after_ledger`` what the journal has beyond it.
    ``known`` are losses and damage that a start has told before. ``history_lost`` is
    that part of ``events.lost`` which the totals have: it is gone from the history only.
    ``next`` is what to do. ``backup`` when it was one that was looked at.
    """

    state_dir: str
    verdict: Literal["whole", "unclean", "damaged"] = "whole"
    next: str = ""
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
    backup: BackupPart | None = None

    def judge(self) -> None:
        """Give the verdict, and what to do."""
        unclean = not self.journal.clean and not self.backup
        self.verdict = "damaged" if self.findings else "unclean" if unclean else "whole"
        self.next = _next_of_backup(self) if self.backup else _next(self)

    def find(self, code: Code, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(code=code, message=message))


def _next(report: VerifyReport) -> str:
    codes, root = {each.code for each in report.findings}, report.state_dir
    repair = f"`tallymark repair {root}`"
    if "disagrees" in codes:
        if all(INDEX_NAME in each.message for each in report.findings):
            return f"remove {root}/{INDEX_NAME}, and start tallymarkd: it makes it anew"
        return (
            f"restore a backup: `tallymark restore --replace --state-dir {root} BACKUP`; and "
            "report this: no start mends it"
        )
    if codes & {"lost", "history"}:
        return (
            f"{repair}, or start tallymarkd: either goes on without what is gone, and counts and "
            "names it; for what is gone itself restore a backup, here or elsewhere"
        )
    if codes:
        return f"start tallymarkd, or {repair}: either settles it; look at the disk"
    if report.verdict == "unclean":
        return f"start tallymarkd, or {repair}: either settles it"
    return "nothing"


def _next_of_backup(report: VerifyReport) -> str:
    assert report.backup is not None
    if report.findings:
        return "do not rely on this backup: take another one, or use an older one"
    return "nothing"
