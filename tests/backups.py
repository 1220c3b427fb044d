"""Backups for tests: of a state directory with a history, in this process."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tallymark.fs import FileSystem, OsFileSystem
from tallymarkd.core.backup import Source, take_backup
from tallymarkd.core.backup_manifest import Manifest
from tallymarkd.core.restoring import RestoreReport, restore_backup
from tests.state_dirs import a_history, journal_settings

BEGUN = datetime(2026, 1, 2, 12, tzinfo=UTC)
LATER = datetime(2026, 1, 3, 12, tzinfo=UTC)


def backed_up(root: Path, target: Path, fs: FileSystem | None = None) -> Manifest:
    """Back up a directory on which no daemon runs."""
    return take_backup(fs or OsFileSystem(), Source(root), target, now=lambda: BEGUN)


def a_backup(directory: Path) -> Path:
    """A backup of a history whose daemon died; it is in ``state`` beside it."""
    a_history(directory / "state").crash()
    quarantine = directory / "state" / "quarantine"
    quarantine.mkdir()
    (quarantine / "torn").write_bytes(b"bytes that were cut off")
    backed_up(directory / "state", directory / "backup")
    return directory / "backup"


def restored(
    backup: Path,
    root: Path,
    fs: FileSystem | None = None,
    *,
    replace: bool = False,
    now: datetime = LATER,
) -> RestoreReport:
    """Restore it."""
    return restore_backup(
        fs or OsFileSystem(), backup, root, journal_settings(), replace=replace, now=lambda: now
    )
