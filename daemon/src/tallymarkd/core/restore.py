"""From a state directory to open books: recovery as a whole.

Steps 1 to 4 are the journal's (storage/recovery.py), in between stand the
state files: they prove how far the journal had been durable, and say where
replay has to begin.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tallymark.errors import DamagedError
from tallymark.fs import FileSystem, write_file
from tallymarkd.core.books import Books, ServerState
from tallymarkd.core.keys import Keys, unpack_keys
from tallymarkd.core.layout import Layout
from tallymarkd.core.loading import StateFiles, load_state_files
from tallymarkd.storage.index import KeyIndex
from tallymarkd.storage.journal import Journal, JournalSettings
from tallymarkd.storage.recovery import open_journal
from tallymarkd.storage.survey import Damage, Survey, refuse_newer, survey

log = logging.getLogger("tallymarkd")


class RecoveryReport(msgspec.Struct, kw_only=True):
    """What a start found and did. Also kept as ``recovery.json``."""

    clean: bool = True
    segments: int = 0
    records_read: int = 0
    events_read: int = 0
    records_replayed: int = 0
    events_replayed: int = 0
    proven_lsn: int = 0
    next_lsn: int = 1
    index_rebuilt: bool = False
    damage: list[Damage] = []
    quarantined: list[str] = []
    new_losses: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Restored:
    """Everything the daemon needs to go on."""

    books: Books
    journal: Journal
    keys: Keys
    report: RecoveryReport
    reaches: dict[str, list[int]]
    server_reaches: list[int]


def restore(
    fs: FileSystem,
    root: Path,
    settings: JournalSettings,
    *,
    new_uuid: Callable[[], uuid.UUID] = uuid.uuid4,
    clock: Callable[[], float] = time.monotonic,
) -> Restored:
    """Recover a state directory, whose lock the caller holds.

    Raises ``NewerFormatError`` with everything untouched, ``StorageError`` and
    ``OSError`` when the directory cannot be read or written.
    """
    return _Restore(fs, Layout(root), settings, new_uuid, clock).run()


class _Restore:
    def __init__(
        self,
        fs: FileSystem,
        layout: Layout,
        settings: JournalSettings,
        new_uuid: Callable[[], uuid.UUID],
        clock: Callable[[], float],
    ) -> None:
        self._fs = fs
        self._layout = layout
        self._settings = settings
        self._new_uuid = new_uuid
        self._clock = clock
        self._report = RecoveryReport()

    def run(self) -> Restored:
        begun = self._clock()
        self._sync_names()
        refuse_newer(self._fs, self._layout.journal)
        files = load_state_files(self._fs, self._layout)
        index = self._open_index()
        after = min(files.replay_after_lsn, index.through_lsn)
        found = survey(
            self._fs,
            self._layout.journal,
            evidence_lsn=max(files.evidence_lsn, index.through_lsn),
            read_after_lsn=after,
        )
        journal, books = self._open(found, files)
        self._set_aside(files)
        keys = self._replay(found, books, index, after, files.replay_after_lsn)
        self._tell(found, books, begun)
        return Restored(books, journal, keys, self._report, files.reaches, files.server.reaches)

    def _sync_names(self) -> None:
        """Step 0: a name may be in memory only; make it durable before believing it."""
        root = self._layout.root
        for path in (root.parent, root, self._layout.journal, self._layout.projects):
            if self._fs.exists(path):
                self._fs.sync_dir(path)

    def _open_index(self) -> KeyIndex:
        path = self._layout.index
        try:
            return KeyIndex.open(path)
        except DamagedError as error:
            log.warning("cannot use the index: %s; rebuilding it from the journal", error)
            self._report.index_rebuilt = True
            KeyIndex.remove(self._fs, path)
            return KeyIndex.open(path)

    def _open(self, found: Survey, files: StateFiles) -> tuple[Journal, Books]:
        """Steps 3 to 5."""
        state: ServerState | None = files.server.newest
        if state is None:
            state = ServerState(server_id=str(self._server_id(found)))
        journal = open_journal(
            self._fs,
            self._layout.journal,
            found,
            self._settings,
            server_id=uuid.UUID(state.server_id).bytes,
            quarantine=self._layout.quarantine,
        )
        return journal, Books(state, files.states)

    def _server_id(self, found: Survey) -> uuid.UUID:
        return uuid.UUID(bytes=found.server_id) if found.server_id else self._new_uuid()

    def _set_aside(self, files: StateFiles) -> None:
        """Keep damaged generations, now that the whole ones are in use."""
        for each in files.all:
            for path in each.damaged:
                kept = each.file.quarantine(path, self._layout.quarantine)
                self._report.quarantined.append(kept.name)

    def _replay(
        self, found: Survey, books: Books, index: KeyIndex, after: int, needed_after: int
    ) -> Keys:
        """Step 6. Keys of what is replayed go into the index, too."""
        report = self._report
        if found.segments and found.begins_after_lsn > needed_after:
            books.miss(needed_after + 1, found.begins_after_lsn)
        keys: list[tuple[int, int]] = []
        last = index.through_lsn
        for record in found.records(after):
            entry = books.record(record)
            report.records_replayed += 1
            if entry is not None:
                report.events_replayed += record.count
                if record.last_lsn > index.through_lsn:
                    keys.extend((key, record.lsn) for key in unpack_keys(entry.keys))
            last = max(last, record.last_lsn)
        if last > index.through_lsn:
            index.add(keys, last)
        report.new_losses = books.places_lost
        return Keys(index, KeyIndex.open(self._layout.index))

    def _tell(self, found: Survey, books: Books, begun: float) -> None:
        """Step 7: the report goes to the log and into the state directory."""
        report, journal = self._report, found.report
        report.clean = journal.clean
        report.segments = journal.segments
        report.records_read = journal.records
        report.events_read = journal.events
        report.proven_lsn = journal.proven_lsn
        report.next_lsn = journal.next_lsn
        report.damage = journal.damage
        report.quarantined += journal.quarantined
        report.seconds = round(self._clock() - begun, 6)
        log.info(
            "recovered: %s stop, %d segments, %d events read, %d replayed, %d damaged places",
            "clean" if report.clean else "unclean",
            report.segments, report.events_read, report.events_replayed, len(report.damage),
        )  # fmt: skip
        for damage in report.damage:
            log.warning(
                "segment %d, bytes %d to %d are %s: %s (numbers %d to %d, at most %d events)",
                damage.segment, damage.start, damage.end, "torn" if damage.torn else "lost",
                damage.reason, damage.from_lsn, damage.through_lsn, damage.events,
            )  # fmt: skip
        with contextlib.suppress(OSError):  # the report is also in the log and in health
            write_file(self._fs, self._layout.recovery_report, msgspec.json.encode(report))
