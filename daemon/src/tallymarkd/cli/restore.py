"""``tallymark restore``: a state directory out of a backup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from tallymark.fs import OsFileSystem
from tallymarkd.cli.output import count, local, many, print_json, size
from tallymarkd.cli.place import Place, json_option, with_place
from tallymarkd.cli.progress import Progress
from tallymarkd.cli.state_dir import (
    PASSES,
    MeteredFileSystem,
    journal_settings,
    prepare_recovery,
)
from tallymarkd.text import one_line

if TYPE_CHECKING:
    from tallymarkd.core.restoring import RestoreReport

WIDTH = 13


@click.command(name="restore")
@click.argument("backup", metavar="BACKUP", type=click.Path(path_type=Path))
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
    from tallymarkd.core.backup_manifest import read_manifest
    from tallymarkd.core.restoring import restore_backup
    from tallymarkd.place import refuse_unsafe

    backup = backup.expanduser().absolute()
    root = place.state_dirs()[0]
    refuse_unsafe(root)
    total = read_manifest(OsFileSystem(), backup).size_bytes
    prepare_recovery()
    with Progress(place, "restore", total * (1 + PASSES), in_bytes=True) as progress:
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
        show(report)
    return 0


def _without_files(report: RestoreReport) -> dict[str, object]:
    found: dict[str, object] = msgspec.to_builtins(report)
    manifest = found["backup"]
    assert isinstance(manifest, dict)
    del manifest["files"]
    return found


def show(report: RestoreReport) -> None:
    """Print it for people."""
    click.echo(f"{one_line(report.state_dir)}: restored")
    for name, value in rows(report):
        click.echo(f"  {name:<{WIDTH}}{one_line(value)}")


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
        return "what was acknowledged after the backup; nothing shows how much that is"
    if not report.lacks:
        return "nothing that the replaced state had"
    return f"{many(report.lacks, 'event')} that the replaced state had; the ledger names them"
