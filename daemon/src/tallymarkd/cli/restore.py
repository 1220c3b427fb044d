"""``tallymark restore``: a state directory out of a backup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from tallymark.fs import OsFileSystem
from tallymarkd.cli.output import count, local, many, print_json, show_rows, size
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.cli.progress import Progress
from tallymarkd.cli.state_dir import (
    DIRECTORY,
    PASSES,
    MeteredFileSystem,
    journal_settings,
    prepare_recovery,
)

if TYPE_CHECKING:
    from tallymarkd.core.restoring import RestoreReport


@click.command(name="restore")
@click.argument("backup", metavar="BACKUP", type=DIRECTORY)
@click.option("--replace", is_flag=True, help="Move a state that is there aside, in its directory.")
@json_option
@with_place
def command(place: Place, backup: Path, replace: bool) -> int:
    """Make a state directory (--state-dir, or the usual one) out of BACKUP.

    Refuses while tallymarkd runs on it, and where a state is already, unless --replace is
    given: then that one is moved aside and never deleted. Cut off anywhere, the directory
    has the old state or the new one. Spools of clients stay where they are.

    What was acknowledged after the backup is lacking; the ledger says so.

    Exit code 0 it is restored, 1 something failed and the message says whether the state is
    the old one or the new one, 2 BACKUP is no backup.
    """
    from tallymarkd.cli.stopping import telling_how_to_stop
    from tallymarkd.core.backup_manifest import read_manifest
    from tallymarkd.core.restoring import restore_backup
    from tallymarkd.place import refuse_unsafe

    backup = backup.expanduser().absolute()
    root = place.state_dirs()[0]
    refuse_unsafe(root)
    total = read_manifest(OsFileSystem(), backup).size_bytes
    prepare_recovery()
    work = Progress(place, "restore", total * (1 + PASSES), in_bytes=True)
    with telling_how_to_stop(place), work as progress:
        report = restore_backup(
            MeteredFileSystem(progress),
            backup,
            root,
            journal_settings(place, root),
            replace=replace,
        )
    if place.as_json:
        print_json(_without_files(report))
    else:
        show_rows(f"{report.state_dir}: restored", rows(report))
    return 0


def _without_files(report: RestoreReport) -> dict[str, object]:
    found: dict[str, object] = msgspec.to_builtins(report)
    manifest = found["backup"]
    assert isinstance(manifest, dict)
    del manifest["files"]
    return found


def rows(report: RestoreReport) -> list[tuple[str, str]]:
    """What is shown, each with its name."""
    manifest = report.backup
    return [
        ("backup", f"begun {local(manifest.begun_at)}, of {manifest.state_dir}"),
        ("server", manifest.server_id),
        ("files", f"{many(report.files, 'file')}, {size(report.size_bytes)}"),
        ("events", f"{count(manifest.events)} stored"),
        ("lacks", _lacks(report)),
        ("replaced", f"what was there is in {report.aside}" if report.aside else "nothing"),
        ("next number", count(report.next_lsn)),
    ]


def _lacks(report: RestoreReport) -> str:
    if report.lacks is None:
        if not report.backup.live:
            return (
                f"nothing, if tallymarkd was not started again: it was stopped at "
                f"{local(report.backup.begun_at)}, and the backup is complete as of then"
            )
        return "what was acknowledged after the backup; nothing shows how much that is"
    if not report.lacks:
        return "nothing that the replaced state had stored"
    lacks = many(report.lacks, "event")
    return f"{lacks} that the replaced state had stored; the ledger names them"
