"""From a backup to a state directory. In this order:

1. Read the manifest; take the lock; refuse to replace a state unasked.
2. Copy every file to ``restore.partial/``, and hold it against its checksum.
3. Recover the copy as a start would, and continue its numbers above all that may have
   been given since.
4. Tell what it lacks (core/lacking.py): by producer where the state that is replaced
   still shows it. Else nobody knows, unless the daemon was stopped when it was taken.
5. Save, stop in good order, put it in the place of what was there (core/replacing.py).

The ``server_id`` stays: spools are bound to it, and what they hold would else be
delivered to nobody. Clients that had more acknowledged than the backup has step over it
with a ``skip``, as after any loss of the daemon's.

The numbers of the backup's journal were given on, with other content, until the restore,
and so they must not be given again: not by this restore, nor by a second one of the same
backup. They continue at the seconds since 1970 times 2^20. A daemon gives less than 2^20
numbers a second, so no journal that began earlier has come so far.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tallymark.errors import StorageError, TallymarkError
from tallymark.fs import FileSystem
from tallymark.record import NO_PRODUCER, Kind, Record
from tallymarkd.core.backup_manifest import STATE_NAME, Manifest, read_manifest
from tallymarkd.core.copying import copy_back, sync_tree
from tallymarkd.core.lacking import Lacking
from tallymarkd.core.layout import Layout
from tallymarkd.core.recovery_report import keep_report, read_history
from tallymarkd.core.refusals import refuse_anothers, refuse_running, refuse_unreadable
from tallymarkd.core.repair import settle
from tallymarkd.core.replacing import DecidedError, begin, commit, finish, state_in
from tallymarkd.core.restore import Restored, restore
from tallymarkd.storage.damage import LSN_JUMP, Damage
from tallymarkd.storage.journal import JournalFull, JournalSettings
from tallymarkd.storage.survey import Survey, survey

NUMBERS_PER_SECOND_BITS = 20
"""No daemon gives as many as two to this numbers a second."""


class RestoreReport(msgspec.Struct, kw_only=True):
    """What a restore did. ``lacks`` are the events that the replaced state had stored
    and the backup has not; None when nothing shows how many there are: none, when the
    daemon was stopped (``backup.live``) and not started again. ``aside`` is where that
    state is now."""

    state_dir: str
    backup: Manifest
    files: int
    size_bytes: int
    next_lsn: int
    lacks: int | None
    aside: str | None
    events_lost: int = 0


def restore_backup(
    fs: FileSystem,
    backup: Path,
    root: Path,
    settings: JournalSettings,
    *,
    replace: bool = False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> RestoreReport:
    """Make ``root`` the state that ``backup`` has. Cut off anywhere, it is that or the old one.

    ``replace`` moves a state that is there aside. Raises ``PathError`` for what is no
    backup, ``DamagedError`` naming a damaged file, ``NewerFormatError``, and ``StorageError``
    when a daemon runs on ``root`` or has left a state there, when it is another user's,
    when something in it cannot be moved, and when a disk failed: that one says whether the
    state is the old one or the new one. After all others it is the old one.
    """
    manifest = read_manifest(fs, backup)
    layout = Layout(root)
    refuse_unreadable(fs, root, "restore")
    refuse_anothers(root, "restore")
    try:
        fs.mkdir(root)
        lock = fs.lock(layout.lock)
    except BlockingIOError:
        refuse_running(layout, "restore", lambda _: True)
        raise
    except OSError as error:
        raise _disk_failed(root, error, AS_IT_WAS) from error
    try:
        _finish_former(fs, layout)
        _refuse_state(fs, layout, replace)
        return _restore_or_tell(
            fs, _Restoring(fs, backup, manifest, layout, settings, now()), layout
        )
    finally:
        fs.close(lock)


def _refuse_state(fs: FileSystem, layout: Layout, replace: bool) -> None:
    old = state_in(fs, layout)
    if old and not replace:
        raise StorageError(
            f"cannot restore {layout.root}: it has a state already ({', '.join(old)}); choose "
            "another directory with --state-dir, or have what is there moved aside with "
            "--replace"
        )


def _restore_or_tell(fs: FileSystem, restoring: _Restoring, layout: Layout) -> RestoreReport:
    """Whatever fails: what the state is after it."""
    try:
        return restoring.run()
    except DecidedError as error:
        state = _wind_up(fs, layout, decided=True)
        raise _disk_failed(layout.root, error.__cause__, state) from error
    except OSError as error:
        raise _disk_failed(layout.root, error, _wind_up(fs, layout)) from error
    except (TallymarkError, KeyboardInterrupt):
        _wind_up(fs, layout)
        raise


AS_IT_WAS = "the state is what it was: free space or look at both disks, and run it again"
IN_PLACE = "yet it is restored, the new state is in its place: look at the disk, and verify it"
DECIDED = (
    "it is decided: the next start of tallymarkd finishes it, or `tallymark repair` does; "
    "free space or look at the disk first"
)


def _disk_failed(root: Path, error: BaseException | None, state: str) -> StorageError:
    what = str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        what = f"{where}{error.strerror or error}"
    return StorageError(f"cannot restore {root}: {what}; {state}")


def _finish_former(fs: FileSystem, layout: Layout) -> None:
    """One that was cut off here before."""
    try:
        finish(fs, layout)
    except OSError as error:
        if not fs.exists(layout.restore_ready):
            raise _disk_failed(layout.root, error, AS_IT_WAS) from error
        raise StorageError(
            f"cannot restore {layout.root}: a restore that was cut off there is decided, and "
            f"cannot be finished: {error}; free space or look at the disk, then run "
            "`tallymark repair`, which finishes it"
        ) from error


def _wind_up(fs: FileSystem, layout: Layout, *, decided: bool = False) -> str:
    """Remove what was copied, or finish what was decided; the next who has the lock does
    what cannot be done here. Gives what the state is, in words."""
    with contextlib.suppress(OSError):
        decided = finish(fs, layout) or decided
    if fs.exists(layout.restore_ready):
        return DECIDED
    return IN_PLACE if decided else AS_IT_WAS


class _Restoring:
    """Steps 2 to 5, around one set of arguments."""

    def __init__(
        self,
        fs: FileSystem,
        backup: Path,
        manifest: Manifest,
        layout: Layout,
        settings: JournalSettings,
        now: datetime,
    ) -> None:
        self._fs = fs
        self._backup = backup
        self._manifest = manifest
        self._layout = layout
        self._settings = settings
        self._now = now

    def run(self) -> RestoreReport:
        fs, manifest = self._fs, self._manifest
        fresh = begin(fs, self._layout)
        self._copy(fresh)
        old = self._old_journal()
        restored = restore(
            fs, fresh.root, self._settings, thorough=True, next_lsn_min=self._next_lsn(old)
        )
        lost = restored.report.new_losses
        try:
            lacks = self._tell(restored, fresh, old)
            self._settle(restored, fresh)
            next_lsn = restored.journal.next_lsn
        finally:
            restored.journal.close()
            restored.keys.close()
        aside = commit(fs, self._layout, self._now.strftime("%Y%m%dT%H%M%SZ"))
        return RestoreReport(
            state_dir=str(self._layout.root),
            backup=manifest,
            files=len(manifest.files),
            size_bytes=manifest.size_bytes,
            next_lsn=next_lsn,
            lacks=lacks,
            aside=None if aside is None else str(aside),
            events_lost=lost,
        )

    def _settle(self, restored: Restored, fresh: Layout) -> None:
        try:
            settle(self._fs, fresh, restored)
        except StorageError as error:
            raise self._failed(error) from error

    def _failed(self, error: StorageError) -> StorageError:
        return StorageError(
            f"cannot restore {self._layout.root}: {error}; the state is what it was: free space "
            "and run it again"
        )

    def _copy(self, fresh: Layout) -> None:
        made = {fresh.root}
        for entry in self._manifest.files:
            target = fresh.root / Path(entry.path).relative_to(STATE_NAME)
            for directory in (target.parent, *target.parent.parents):
                if directory in made:
                    break
                self._fs.mkdir(directory)
                made.add(directory)
            copy_back(self._fs, self._backup, entry, target)
        sync_tree(self._fs, fresh.root, made)

    def _old_journal(self) -> Survey | None:
        """That of the state which is replaced, when it is of the same server."""
        try:
            found = survey(self._fs, self._layout.journal)
        except (StorageError, OSError):
            return None
        server_id = uuid.UUID(self._manifest.server_id).bytes if self._manifest.server_id else b""
        return found if found.segments and found.server_id == server_id else None

    def _next_lsn(self, old: Survey | None) -> int:
        highest = old.report.highest_lsn + LSN_JUMP if old else 0
        return max(highest + 1, int(self._now.timestamp()) << NUMBERS_PER_SECOND_BITS)

    # Step 4.

    def _tell(self, restored: Restored, fresh: Layout, old: Survey | None) -> int | None:
        """Write what is lacking into the journal, the ledger and the account; gives the
        number of events, None where nobody knows."""
        lacking = Lacking(self._manifest, self._now)
        known = old is not None and old.begins_after_lsn <= self._manifest.end_lsn
        if old and known:
            damage = lacking.shown_by(old)
        else:
            damage = lacking.unknown(restored.journal.next_lsn - 1)
        report = restored.report
        for each in damage:
            self._lose(restored, each)
        report.new_losses, report.losses = restored.books.new_losses, restored.books.losses
        report.restored = "" if damage else lacking.complete
        history = read_history(self._fs, fresh)
        # Recovery of the copy has kept this account already, if it had news.
        history.reports = [each for each in history.reports if each.at != report.at]
        keep_report(self._fs, fresh, report, history)
        return sum(each.events for each in damage) if known else None

    def _lose(self, restored: Restored, damage: Damage) -> None:
        payload = msgspec.json.encode(damage)
        producer = damage.producer or NO_PRODUCER
        try:
            lsn = restored.journal.append(
                Kind.LOSS, payload, producer=producer, seq=damage.through_seq,
                from_seq=damage.from_seq,
            )  # fmt: skip
            restored.journal.sync()
        except JournalFull as error:
            raise self._failed(error) from error
        restored.books.control(
            Record(
                kind=Kind.LOSS, lsn=lsn, count=1, durable_lsn=lsn, producer=producer,
                seq=damage.through_seq, from_seq=damage.from_seq, prev_crc=0, payload=payload,
                crc=0, offset=0,
            )
        )  # fmt: skip
