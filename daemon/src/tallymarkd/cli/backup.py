"""``tallymark backup``: a copy of everything, of a running daemon or a stopped one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from tallymark.errors import ConnectError, PathError, StorageError
from tallymark.fs import OsFileSystem
from tallymarkd.cli.holding import holding
from tallymarkd.cli.output import count, local, many, print_json, show_rows, size
from tallymarkd.cli.place import NoStateDir, Place, json_option, with_place
from tallymarkd.cli.progress import Progress
from tallymarkd.cli.state_dir import DIRECTORY, PASSES, MeteredFileSystem, bytes_to_read

if TYPE_CHECKING:
    from tallymarkd.core.backup import Source
    from tallymarkd.core.backup_manifest import Manifest


@click.command(name="backup")
@click.argument("target", metavar="DIR", type=DIRECTORY)
@json_option
@with_place
def command(place: Place, target: Path) -> int:
    """Copy everything into DIR, which must not exist or be empty, in a directory that does.

    tallymarkd may run: it goes on recording, and only keeps its history meanwhile. Every
    event that was acknowledged before the backup began is in it, which is verified
    before DIR gets its name. With tallymarkd stopped, one that is started meanwhile is
    refused. `tallymark restore DIR` makes a state directory of it again.

    Exit code 0 the backup is whole, 1 there is none, 2 there is none because DIR cannot
    be used or no state was found.
    """
    target = target.expanduser().absolute()
    try:
        with holding(place) as hold:
            from tallymarkd.core.backup import Source

            held = hold.held
            source = Source(Path(held.state_dir), held.durable_lsn, hold.check)
            manifest = _take(place, source, target)
    except ConnectError as error:
        manifest = _take_of_stopped(place, target, error)
    if place.as_json:
        print_json({"backup": str(target), **msgspec.to_builtins(manifest)})
    else:
        show_rows(f"{target}: backed up, verified", rows(manifest))
    return 0


def _take(place: Place, source: Source, target: Path) -> Manifest:
    from tallymarkd.core.backup import refuse_target, take_backup
    from tallymarkd.core.refusals import refuse_unreadable

    refuse_unreadable(OsFileSystem(), source.root, "back up")
    refuse_target(OsFileSystem(), target, source.root)
    total = bytes_to_read(source.root) * (1 + PASSES) // PASSES
    with Progress(place, "backup", total, in_bytes=True) as progress:
        return take_backup(MeteredFileSystem(progress), source, target)


def _take_of_stopped(place: Place, target: Path, unreachable: ConnectError) -> Manifest:
    from tallymarkd.core.backup import Source
    from tallymarkd.core.layout import Layout
    from tallymarkd.core.refusals import is_state_dir, refuse_unreadable

    fs = OsFileSystem()
    try:
        directories = place.state_dirs()
    except NoStateDir as error:
        raise PathError(f"cannot back up: {unreachable}; and {error}") from None
    for root in directories:
        refuse_unreadable(fs, root, "back up")
        if is_state_dir(fs, Layout(root)):
            break
    else:
        looked = ", ".join(map(str, directories))
        raise PathError(
            f"cannot back up: there is no state of tallymarkd in {looked}, and {unreachable}; "
            "say where it is with --state-dir or --socket"
        )
    try:
        lock = fs.lock(Layout(root).lock)
    except BlockingIOError:
        raise StorageError(
            f"cannot back up {root}: tallymarkd, or another command, is at work on it and does "
            f"not answer ({unreachable}); wait, or say where it listens with --socket"
        ) from unreachable
    try:
        return _take(place, Source(root), target)
    finally:
        fs.close(lock)


def rows(manifest: Manifest) -> list[tuple[str, str]]:
    """What is shown, each with its name."""
    how = "while tallymarkd ran" if manifest.live else "while tallymarkd was stopped"
    found = [
        ("of", f"{manifest.state_dir}, {how}"),
        ("server", manifest.server_id),
        ("begun", f"{local(manifest.begun_at)}; all that was acknowledged before is in it"),
        ("journal", f"through number {count(manifest.end_lsn)}"),
        ("events", f"{count(manifest.events)} stored"),
        ("files", f"{many(len(manifest.files), 'file')}, {size(manifest.size_bytes)}"),
    ]
    if manifest.left_out:
        found.append(("left out", f"{', '.join(manifest.left_out)}: none of tallymarkd's files"))
    return found
