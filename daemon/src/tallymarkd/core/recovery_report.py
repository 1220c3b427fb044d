"""The account that a start gives of what it found, and where it is kept.

``recovery.json`` is that of the last start. ``recovery-history.json`` has those
of the last starts that found damage or losses which none before had told, so
that a later start, which finds nothing, does not take away the only account.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from tallymark.fs import FileSystem, read_file, write_file
from tallymarkd.core.books import producer_text
from tallymarkd.core.layout import Layout
from tallymarkd.core.ledger import Loss, events_text
from tallymarkd.storage.survey import Damage
from tallymarkd.text import span

REPORTS_MAX = 20
"""Accounts kept in the history, the newest ones."""

log = logging.getLogger("tallymarkd")


class Counted(msgspec.Struct, kw_only=True, frozen=True):
    """Numbers that the journal has lost and that the totals have: only history is gone.
    ``keys`` are those of their keys that the index still has."""

    from_lsn: int
    through_lsn: int
    keys: int


class Aside(msgspec.Struct, kw_only=True, frozen=True):
    """A file that was put aside: its path below the state directory, its name in
    ``quarantine/``, and why."""

    path: str
    name: str
    reason: str

    def text(self) -> str:
        """In a person's words."""
        return f"aside: {self.path} is in quarantine/{self.name}: {self.reason}"


class RecoveryReport(msgspec.Struct, kw_only=True):
    """What a start found and did.

    ``damage`` is what does not verify: *torn* was never acknowledged, ``cut_bytes``
    of it were cut off; all else is corrupt. ``aside`` has every file that was put into
    ``quarantine/``, and ``quarantined`` their names alone. ``new_damage`` counts the
    corrupt places that no start before had told. ``new_losses`` counts the places where
    acknowledged events are missing, and ``losses`` names the first of them.
    ``counted`` is that part of the damage whose events the totals have, and
    ``new_history`` how many places of it no start before had told.
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
    index_reason: str = ""
    cut_bytes: int = 0
    damage: list[Damage] = []
    new_damage: int = 0
    quarantined: list[str] = []
    aside: list[Aside] = []
    new_losses: int = 0
    losses: list[Loss] = []
    counted: list[Counted] = []
    new_history: int = 0
    restored: str = ""
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """What it says of damage and losses, a line each."""
        keys = keys_by_numbers(self.counted)
        return [
            *(each.text() for each in self.aside),
            *(damage_text(damage, keys) for damage in self.damage),
            *(f"lost: {loss.text()}" for loss in self.losses),
        ]


class RecoveryHistory(msgspec.Struct, kw_only=True):
    """``recovery-history.json``."""

    reports: list[RecoveryReport] = []

    def tells(self, damage: Damage) -> bool:
        """Whether a start has told of this damage."""
        place = _place(damage)
        return any(_place(each) == place for report in self.reports for each in report.damage)

    def is_counted(self, damage: Damage, losses: Iterable[Loss]) -> bool:
        """Whether the totals have what stood there: only history is gone.

        By what was told when it was found, else by what the ledger says is lost, to
        which a start has added what it had to.
        """
        if damage.torn or damage.restored or not damage.numbers:
            return False
        if self.tells(damage):
            told = [each for report in self.reports for each in report.counted]
            return (damage.from_lsn, damage.through_lsn) in keys_by_numbers(told)
        return not any(
            each.from_lsn <= damage.through_lsn and damage.from_lsn <= each.through_lsn
            for each in losses
        )


def keys_by_numbers(counted: Iterable[Counted]) -> dict[tuple[int, int], int]:
    """How many of their keys the index has, by the first and the last number."""
    return {(each.from_lsn, each.through_lsn): each.keys for each in counted}


NOT_COUNTED: Mapping[tuple[int, int], int] = {}


def damage_text(damage: Damage, keys: Mapping[tuple[int, int], int] = NOT_COUNTED) -> str:
    """Where it is and what is wrong, in a person's words.

    ``keys`` has those numbers that the totals have, with how many of their keys the
    index has.
    """
    return ": ".join(filter(None, damage_words(damage, keys)))


def damage_words(
    damage: Damage, keys: Mapping[tuple[int, int], int] = NOT_COUNTED
) -> tuple[str, str]:
    """The same in two: one word for it, none where nothing is damaged, and the rest."""
    where = _where(damage)
    if damage.torn:
        return "torn", f"{where}: {damage.reason}; it was never acknowledged"
    if damage.restored:
        what = "not in the backup" if damage.events else "never used"
        return "", f"{damage.reason}; {what}: {_numbers_text(damage)}"
    if not damage.numbers:
        return "corrupt", f"{where}: {damage.reason}; no number is missing"
    known = keys.get((damage.from_lsn, damage.through_lsn))
    if known is not None:
        return "history", f"{where}: {damage.reason}; {_counted_text(damage, known)}"
    return "corrupt", f"{where}: {damage.reason}; cannot be read: {_numbers_text(damage)}"


def _where(damage: Damage) -> str:
    if not damage.segment:
        return "the journal"
    if damage.start == damage.end:
        return f"segment {damage.segment}, from byte {damage.start} on"
    return f"segment {damage.segment}, bytes {damage.start} to {damage.end}"


def _counted_text(damage: Damage, keys: int) -> str:
    known = "the index still has their keys, so no repeat counts again"
    if not keys:
        known = "no key of theirs is left, so a repeat of one that had a key counts again"
    events = events_text(damage.events, exact=bool(damage.producer.strip(b"\0")))
    gone = f"{events}, {_numbers_text(damage)}"
    return f"gone from the history, and not from the totals: {gone}; {known}"


def _numbers_text(damage: Damage) -> str:
    """Which numbers, and whose."""
    numbers = span("number", "numbers", damage.from_lsn, damage.through_lsn)
    if not damage.producer.strip(b"\0"):
        return numbers
    seqs = span("seq", "seq", damage.from_seq, damage.through_seq)
    return f"{numbers} of producer {producer_text(damage.producer)} ({seqs})"


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
