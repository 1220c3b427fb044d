"""``verify`` of a backup: its manifest, every file's checksum, and the state in it."""

from __future__ import annotations

from pathlib import Path

from tallymark.fs import FileSystem
from tallymarkd.core.backup_manifest import MANIFEST_NAME, STATE_NAME, Manifest, read_manifest
from tallymarkd.core.copying import fault_in_backup
from tallymarkd.core.layout import Layout
from tallymarkd.core.refusals import is_state_dir
from tallymarkd.core.verify import NO_INDEX, UNCLEAN, verify
from tallymarkd.core.verify_report import BackupPart, VerifyReport


def is_backup(fs: FileSystem, path: Path) -> bool:
    """Whether it is what ``tallymark backup`` makes, and no state directory itself."""
    return fs.exists(path / MANIFEST_NAME) and not is_state_dir(fs, Layout(path))


def verify_backup(fs: FileSystem, backup: Path) -> VerifyReport:
    """Look at everything; the report is that of its state, with ``backup`` filled in.

    Raises ``DamagedError`` when the manifest is damaged, so that nobody knows what the
    backup had; else as ``verify``.
    """
    manifest = read_manifest(fs, backup, "verify")
    part = BackupPart(
        begun_at=manifest.begun_at,
        state_dir=manifest.state_dir,
        live=manifest.live,
        files=len(manifest.files),
        size_bytes=manifest.size_bytes,
    )
    report = _state_of(fs, backup)
    report.backup = part
    # A backup has no index, and looks as if its daemon had died: so it should.
    report.notes = [each for each in report.notes if each not in (NO_INDEX, UNCLEAN)]
    for entry in manifest.files:
        if fault := fault_in_backup(fs, backup, entry):
            part.damaged.append(entry.path)
            report.find("damaged", f"{backup / entry.path}: {fault}")
    _tell_counts(report, manifest)
    report.judge()
    return report


def _state_of(fs: FileSystem, backup: Path) -> VerifyReport:
    """The report about the state in it. One that is not there is told file by file."""
    root = backup / STATE_NAME
    if not is_state_dir(fs, Layout(root)):
        return VerifyReport(state_dir=str(root))
    return verify(fs, root)


def _tell_counts(report: VerifyReport, manifest: Manifest) -> None:
    """What the manifest says it had, held against what is there."""
    if report.findings:
        return
    ours = (report.journal.end_lsn, report.events.stored)
    if ours != (manifest.end_lsn, manifest.events):
        report.find(
            "disagrees",
            f"{MANIFEST_NAME} says that the journal ends at {manifest.end_lsn} with "
            f"{manifest.events} events stored, and it ends at {ours[0]} with {ours[1]}",
        )
