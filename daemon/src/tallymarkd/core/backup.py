"""A backup of a state directory, also while its daemon writes. In this order:

1. See to it that no segment is retired meanwhile: the running daemon holds its history
   (core/holds.py), or its lock is taken.
2. Copy the state files, each with all generations as they were at one moment, then the
   accounts of starts and ``quarantine/``.
3. Copy the journal, which so has everything that the state files reach: sealed segments
   as they are, the one being written up to where it verifies. Whether that is still the
   active one does not matter: what was begun after the names were read is not needed.
4. Have ``verify`` read the copy: nothing may be missing of what was durable at step 1.
5. Write the manifest, rename the whole into its place.

``index.sqlite`` is left out: it is derived from the journal, SQLite may be changing it,
and a start makes it again. So are ``lock``, ``run/``, ``spool/`` (clients' own) and the
journal's spare. Every file is copied byte by byte: with a hard link, one fault of the
disk, or one program that writes, would be in both.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tallymark.errors import PathError, StorageError, TallymarkError
from tallymark.fs import FileSystem, read_file, write_file
from tallymarkd._version import __version__
from tallymarkd.core.backup_manifest import (
    MANIFEST_NAME,
    STATE_NAME,
    FileEntry,
    Manifest,
    encode_manifest,
)
from tallymarkd.core.copying import chunks_of, remove_tree, sync_tree, write_copy
from tallymarkd.core.layout import PROJECT_FILE, SERVER_FILE, Layout
from tallymarkd.core.loading import load_state_files
from tallymarkd.core.verify import verify
from tallymarkd.storage.copied_segment import worth_copying
from tallymarkd.storage.journal import DISK_FULL
from tallymarkd.storage.segment_files import open_segment, read_segment, segment_paths
from tallymarkd.storage.state_file import StateFile

PARTIAL_SUFFIX = ".partial"
LOCK_NAME = "lock"

READINGS_MAX = 100
"""How often the generations of a state file are read again because they moved on."""

FINDINGS_TOLD = 3


@dataclass(frozen=True, slots=True)
class Source:
    """What is backed up. ``durable_lsn`` is None when no daemon runs on it: then the
    caller has its lock. ``check`` raises ``StorageError`` once history is held no longer."""

    root: Path
    durable_lsn: int | None = None
    check: Callable[[], None] = lambda: None


def take_backup(
    fs: FileSystem,
    source: Source,
    target: Path,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Manifest:
    """Back up into ``target``, which must not exist or be empty.

    Half a backup never has that name; of one that fails nothing is left. Raises
    ``PathError``, ``NewerFormatError``, and ``StorageError`` when something cannot be
    read or written, or does not verify.
    """
    refuse_target(fs, target, source.root)
    partial = target.with_name(target.name + PARTIAL_SUFFIX)
    lock = _begin(fs, partial)
    try:
        manifest = _Backup(fs, source, partial, now).run()
        _finish(fs, partial, target)
        return manifest
    except OSError as error:
        _remove(fs, partial)
        raise _failed(source.root, target, error) from error
    except (TallymarkError, KeyboardInterrupt):
        _remove(fs, partial)
        raise
    finally:
        fs.close(lock)


def refuse_target(fs: FileSystem, target: Path, root: Path) -> None:
    """Raises ``PathError`` for a directory into which no backup can be made."""
    real, real_root = target.resolve(), root.resolve()
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise PathError(f"cannot back up to {target}: it is no directory; choose another name")
    if not target.parent.is_dir():
        raise PathError(
            f"cannot back up to {target}: there is no directory {target.parent}; mount what "
            "belongs there, or make it first"
        )
    if fs.names(target):
        raise PathError(
            f"cannot back up to {target}: it is not empty; choose a directory that does not exist"
        )
    if target.is_mount():
        raise PathError(
            f"cannot back up to {target}: something is mounted there, and a backup is renamed "
            "into its place when it is whole; name a directory in it"
        )
    if real_root in (real, *real.parents):
        raise PathError(
            f"cannot back up to {target}: it is inside of the state directory; choose a "
            "directory elsewhere, best on another disk"
        )


def _begin(fs: FileSystem, partial: Path) -> int:
    """An empty directory to write to, locked; what a killed backup left goes."""
    ours = {LOCK_NAME, STATE_NAME, MANIFEST_NAME}
    try:
        if set(fs.names(partial)) - ours:
            raise PathError(
                f"cannot back up to {partial.with_suffix('')}: {partial}, where it would be "
                "written first, has other files; move them away"
            )
        fs.mkdir(partial)
        lock = fs.lock(partial / LOCK_NAME)
    except BlockingIOError:
        raise StorageError(
            f"cannot back up: another backup is writing {partial}; wait for it, or choose "
            "another directory"
        ) from None
    except OSError as error:
        raise StorageError(
            f"cannot back up to {partial}: {error.strerror or error}; choose another directory"
        ) from error
    try:
        _clear(fs, partial)
    except BaseException:
        fs.close(lock)
        raise
    return lock


def _clear(fs: FileSystem, partial: Path) -> None:
    try:
        for name in (MANIFEST_NAME, STATE_NAME):
            remove_tree(fs, partial / name)
    except OSError as error:
        raise StorageError(
            f"cannot remove what an earlier backup left in {partial}: {error.strerror or error}; "
            "remove it, or choose another directory"
        ) from error


def _finish(fs: FileSystem, partial: Path, target: Path) -> None:
    fs.unlink(partial / LOCK_NAME)
    fs.sync_dir(partial)
    fs.replace(partial, target)
    try:
        fs.sync_dir(target.parent)
    except OSError:
        # Nothing is called a backup of which it is not known whether it will be there.
        fs.replace(target, partial)
        raise


def _remove(fs: FileSystem, partial: Path) -> None:
    """What cannot be removed is not called a backup, and the next one removes it."""
    try:
        remove_tree(fs, partial)
    except OSError:
        return


def _failed(root: Path, target: Path, error: OSError) -> StorageError:
    what = error.strerror or str(error)
    if error.errno in DISK_FULL:
        return StorageError(
            f"cannot back up to {target}: {what}; free space there, or choose another directory; "
            "what had been copied is removed"
        )
    where = f"{error.filename}: " if error.filename else ""
    return StorageError(
        f"cannot back up {root} to {target}: {where}{what}; look at both disks and run it again; "
        "what had been copied is removed"
    )


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _name_of(path: Path) -> str:
    """As text, also of a name that is none."""
    return path.as_posix().encode(errors="replace").decode()


class _Backup:
    """The steps, around one set of arguments."""

    def __init__(
        self, fs: FileSystem, source: Source, partial: Path, now: Callable[[], datetime]
    ) -> None:
        self._fs = fs
        self._source = source
        self._from = Layout(source.root)
        self._root = partial
        self._to = Layout(partial / STATE_NAME)
        self._now = now
        self._files: list[FileEntry] = []
        self._directories: set[Path] = set()
        self._left_out: list[str] = []

    def run(self) -> Manifest:
        begun = self._now()
        self._make(self._to.root)
        self._make(self._to.journal)
        self._copy_state()
        self._copy_rest()
        self._copy_journal()
        sync_tree(self._fs, self._root, self._directories)
        self._source.check()
        end_lsn, events = self._verify()
        manifest = Manifest(
            version=__version__,
            server_id=self._server_id(),
            state_dir=str(self._source.root),
            begun_at=_text(begun),
            finished_at=_text(self._now()),
            live=self._source.durable_lsn is not None,
            durable_lsn=end_lsn if self._source.durable_lsn is None else self._source.durable_lsn,
            end_lsn=end_lsn,
            events=events,
            files=self._files,
            left_out=self._left_out,
        )
        write_file(self._fs, self._root / MANIFEST_NAME, encode_manifest(manifest))
        return manifest

    def _make(self, directory: Path) -> None:
        if directory not in self._directories:
            self._fs.mkdir(directory)
            self._directories.add(directory)

    # Step 2.

    def _copy_state(self) -> None:
        for directory in self._in(self._from.projects, Path.is_dir):
            self._copy_generations(directory, PROJECT_FILE)
        self._copy_generations(self._from.root, SERVER_FILE)

    def _copy_generations(self, directory: Path, name: str) -> None:
        """All of them as they were at one moment, while saves move them along."""
        file = StateFile(self._fs, directory, name)
        paths = (file.path, *file.backup_paths)
        for _ in range(READINGS_MAX):
            before = [self._fs.stamp(path) for path in paths]
            try:
                found = [
                    (path, read_file(self._fs, path))
                    for path, stamp in zip(paths, before, strict=True)
                    if stamp is not None
                ]
            except FileNotFoundError:
                continue
            if [self._fs.stamp(path) for path in paths] == before:
                break
        else:
            raise StorageError(
                f"cannot copy {file.path}: it was saved anew each of {READINGS_MAX} times that it "
                "was read; run the backup again with less load, or a longer save_interval_seconds"
            )
        for path, body in found:
            self._write(path, [body])

    def _copy_rest(self) -> None:
        layout = self._from
        paths = [layout.recovery_report, layout.recovery_history]
        for path in [path for path in paths if self._fs.exists(path)]:
            self._copy(path)
        for path in self._in(layout.quarantine, _is_plain_file):
            self._copy(path)

    def _in(self, directory: Path, ours: Callable[[Path], bool]) -> list[Path]:
        """What is in a directory; others' things are left out, and that is told."""
        paths = [directory / name for name in self._fs.names(directory)]
        others = [path for path in paths if not ours(path)]
        self._left_out += [_name_of(path.relative_to(self._from.root)) for path in others]
        return [path for path in paths if path not in others]

    def _copy(self, path: Path) -> None:
        self._source.check()
        self._write(path, chunks_of(self._fs, path))

    def _write(self, path: Path, chunks: Iterable[bytes]) -> None:
        inside = STATE_NAME / path.relative_to(self._from.root)
        self._make((self._root / inside).parent)
        self._files.append(write_copy(self._fs, self._root, inside.as_posix(), chunks))

    # Step 3.

    def _copy_journal(self) -> None:
        # What the copied state files reach was durable before the names are read here.
        needed_lsn = self._source.durable_lsn
        if needed_lsn is not None:
            files = load_state_files(self._fs, self._to, lambda _: None)
            needed_lsn = max(needed_lsn, files.evidence_lsn)
        paths = [path for _, path in segment_paths(self._fs, self._from.journal)]
        for path in paths[:-1]:
            self._copy(path)
        for path in paths[-1:]:
            self._source.check()
            data = read_segment(self._fs, path)
            self._write(path, [worth_copying(data, needed_lsn=needed_lsn)])

    # Step 4.

    def _verify(self) -> tuple[int, int]:
        """Where the copied journal ends, and how many events it has."""
        report = verify(self._fs, self._to.root)
        needed_lsn, end_lsn = self._source.durable_lsn or 0, report.journal.end_lsn
        found = [f"{each.code}: {each.message}" for each in report.findings]
        if end_lsn < needed_lsn:
            found.insert(0, f"its journal ends at {end_lsn}, and {needed_lsn} was durable")
        if found:
            more = f"; and {len(found) - FINDINGS_TOLD} more" if found[FINDINGS_TOLD:] else ""
            told = "; ".join(found[:FINDINGS_TOLD]).replace(
                str(self._to.root), str(self._from.root)
            )
            raise StorageError(
                f"cannot back up {self._from.root}: the copy does not verify: {told}{more}; what "
                "had been copied is removed. Look at the disk; stop tallymarkd, run `tallymark "
                "repair`, which tells what is lost, and back up again"
            )
        return end_lsn, report.events.stored

    def _server_id(self) -> str:
        """As the copy has it."""
        server = load_state_files(self._fs, self._to, lambda _: None).server.newest
        if server is not None:
            found: str = server.server_id
            return found
        headers = [
            open_segment(self._fs, number, path).header
            for number, path in segment_paths(self._fs, self._to.journal)
        ]
        return next((str(uuid.UUID(bytes=h.server_id)) for h in headers[::-1] if h), "")


def _text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
