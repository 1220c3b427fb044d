"""The account that a start gives of what it found, and where it is kept.

``recovery.json`` is that of the last start. ``recovery-history.json`` has those
of the last starts that found damage or losses which none before had told, so
that a later start, which finds nothing, does not take away the only account.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tallymark.fs import FileSystem, read_file, write_file
from tallymarkd.core.books import producer_text
from tallymarkd.core.layout import Layout
from tallymarkd.core.ledger import Loss
from tallymarkd.storage.survey import Damage

REPORTS_MAX = 20
"""Accounts kept in the history, the newest ones."""

log = logging.getLogger("tallymarkd")


class RecoveryReport(msgspec.Struct, kw_only=True):
    """What a start found and did.

    ``damage`` is what does not verify: *torn* was never acknowledged, ``cut_bytes``
    of it were cut off; all else is corrupt. ``new_damage`` counts the corrupt
    places that no start before had told. ``new_losses`` counts the places where
    acknowledged events are missing, and ``losses`` names the first of them.
    ``restored`` says out of what this state was made, when a restore did it that
    knows of nothing that is lacking.
    """

    at: str = ""
    clean: bool = True
    segments: int = 0
    records_read: int = 0
    events_read: int = 0
    records_replayed: int = 0
    events_replayed: int = 0
    proven_lsn: int = 0
    next_lsn: int = 1
    index_rebuilt: bool = False
    cut_bytes: int = 0
    damage: list[Damage] = []
    new_damage: int = 0
    quarantined: list[str] = []
    new_losses: int = 0
    losses: list[Loss] = []
    restored: str = ""
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """What it says of damage and losses, a line each."""
        return [
            *(damage_text(damage) for damage in self.damage),
            *(f"lost: {loss.text()}" for loss in self.losses),
        ]


class RecoveryHistory(msgspec.Struct, kw_only=True):
    """``recovery-history.json``."""

    reports: list[RecoveryReport] = []

    def tells(self, damage: Damage) -> bool:
        """Whether a start has told of this damage."""
        place = _place(damage)
        return any(_place(each) == place for report in self.reports for each in report.damage)


def damage_text(damage: Damage) -> str:
    """Where it is and what is wrong, in a person's words."""
    where = f"segment {damage.segment}, bytes {damage.start} to {damage.end}"
    if not damage.segment:
        where = "the journal"
    if damage.torn:
        return f"torn: {where}: {damage.reason}; it was never acknowledged"
    if damage.restored:
        what = "are not in the backup" if damage.events else "were never used"
        return f"{damage.reason}; {_numbers_text(damage)} {what}"
    if not damage.numbers:
        return f"corrupt: {where}: {damage.reason}; no number is missing"
    return f"corrupt: {where}: {damage.reason}; {_numbers_text(damage)} cannot be read"


def _numbers_text(damage: Damage) -> str:
    """Which numbers, and whose."""
    numbers = f"numbers {damage.from_lsn} to {damage.through_lsn}"
    if not damage.producer.strip(b"\0"):
        return numbers
    seqs = f"(seq {damage.from_seq} to {damage.through_seq})"
    return f"{numbers} of producer {producer_text(damage.producer)} {seqs}"


def _place(damage: Damage) -> tuple[int, int, int, int, int]:
    return damage.segment, damage.start, damage.end, damage.from_lsn, damage.through_lsn


def corrupt(damage: Iterable[Damage]) -> list[Damage]:
    """Those that are not torn."""
    return [each for each in damage if not each.torn]


def read_history(fs: FileSystem, layout: Layout) -> RecoveryHistory:
    """The accounts that are kept; none where there is no such file, or it is damaged."""
    try:
        return msgspec.json.decode(read_file(fs, layout.recovery_history), type=RecoveryHistory)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return RecoveryHistory()


def read_report(fs: FileSystem, layout: Layout) -> RecoveryReport | None:
    """The account of the last start; None where there is none that can be read."""
    try:
        return msgspec.json.decode(read_file(fs, layout.recovery_report), type=RecoveryReport)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def keep_report(
    fs: FileSystem, layout: Layout, report: RecoveryReport, history: RecoveryHistory
) -> None:
    """Write the account of this start, and add it to the history when it has news."""
    if report.new_losses or report.new_damage or report.restored:
        history.reports = [*history.reports, report][-REPORTS_MAX:]
        _keep(fs, layout.recovery_history, msgspec.json.encode(history))
    _keep(fs, layout.recovery_report, msgspec.json.encode(report))


def _keep(fs: FileSystem, path: Path, body: bytes) -> None:
    """Write it atomically. That it fails keeps nobody from starting: the account is
    also in the log and in health."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        write_file(fs, temporary, body)
        fs.replace(temporary, path)
        fs.sync_dir(path.parent)
    except OSError as error:
        log.warning("cannot keep the account of this start in %s: %s", path, error)
        with contextlib.suppress(OSError):  # told already
            fs.unlink(temporary)
