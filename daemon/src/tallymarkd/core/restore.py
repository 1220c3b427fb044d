"""From a state directory to open books: recovery as a whole.

Steps 1 to 4 are the journal's (storage/recovery.py), in between stand the
state files: they prove how far the journal had been durable, and say where
replay has to begin.
"""

from __future__ import annotations

import logging
import sqlite3
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tallymark.errors import DamagedError, StorageError
from tallymark.fs import FileSystem
from tallymarkd.core.books import Books
from tallymarkd.core.keys import Keys, unpack_keys
from tallymarkd.core.layout import Layout
from tallymarkd.core.ledger import ServerState
from tallymarkd.core.loading import StateFiles, load_state_files, missing_part
from tallymarkd.core.recovery_report import (
    Aside,
    Counted,
    RecoveryReport,
    corrupt,
    damage_text,
    keep_report,
    keys_by_numbers,
    read_history,
)
from tallymarkd.core.replacing import finish
from tallymarkd.storage.index import IndexFullError, KeyIndex
from tallymarkd.storage.journal import Journal, JournalSettings
from tallymarkd.storage.recovery import open_journal
from tallymarkd.storage.survey import Damage, Survey, refuse_newer, survey

__all__ = ["RecoveryReport", "Restored", "restore"]

LOSSES_TOLD = 3
"""Losses named by a refusal to start; the log has all."""

TORN = "the torn bytes of its end, which were cut off"
CORRUPT = "as it was, with what does not verify"
"""Why a segment, or a part of it, is kept."""

log = logging.getLogger("tallymarkd")


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
    strict: bool = False,
    thorough: bool = False,
    next_lsn_min: int = 0,
    new_uuid: Callable[[], uuid.UUID] = uuid.uuid4,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Restored:
    """Recover a state directory, whose lock the caller holds.

    ``strict`` refuses, with a ``StorageError``, a journal that has lost what was
    acknowledged and was not told yet; journal and state files are untouched then.
    ``thorough`` reads every segment, those too that no state file needs. No number below
    ``next_lsn_min`` is given from now on.

    Raises ``NewerFormatError`` with everything untouched, ``StorageError`` and
    ``OSError`` when the directory cannot be read or written.
    """
    if finish(fs, Layout(root)):
        log.warning("finished a restore of %s that was cut off", root)
    begun = _Restore(fs, Layout(root), settings, new_uuid, clock, now, next_lsn_min)
    return begun.run(strict, thorough)


class _Restore:
    def __init__(
        self,
        fs: FileSystem,
        layout: Layout,
        settings: JournalSettings,
        new_uuid: Callable[[], uuid.UUID],
        clock: Callable[[], float],
        now: Callable[[], datetime],
        next_lsn_min: int,
    ) -> None:
        self._fs = fs
        self._layout = layout
        self._settings = settings
        self._new_uuid = new_uuid
        self._clock = clock
        self._next_lsn_min = next_lsn_min
        self._report = RecoveryReport(at=now().isoformat(timespec="milliseconds"))
        self._history = read_history(fs, layout)

    def run(self, strict: bool, thorough: bool) -> Restored:
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
            read_after_lsn=0 if thorough else after,
        )
        if strict:
            self._refuse_losses(found, after, index)
        journal, books = self._open(found, files)
        self._set_aside(files, books)
        keys = self._replay(found, books, index, after, files)
        self._report.counted = self._counted(found, books, index)
        self._tell(found, begun)
        return Restored(books, journal, keys, self._report, files.reaches, files.server.reaches)

    def _sync_names(self) -> None:
        """Step 0: a name may be in memory only; make it durable before believing it."""
        root = self._layout.root
        for path in (root.parent, root, self._layout.journal, self._layout.projects):
            if self._fs.exists(path):
                self._fs.sync_dir(path)

    def _open_index(self) -> KeyIndex:
        path = self._layout.index
        if not self._fs.exists(path) and self._fs.names(self._layout.journal):
            self._report.index_rebuilt = True
            self._report.index_reason = "there was none"
        try:
            return KeyIndex.open(path)
        except IndexFullError:
            return KeyIndex.open(path, alone=True)
        except DamagedError as error:
            log.warning("cannot use the index: %s; rebuilding it from the journal", error)
            self._report.index_rebuilt = True
            self._report.index_reason = str(error)
            KeyIndex.remove(self._fs, path)
            return KeyIndex.open(path)

    def _refuse_losses(self, found: Survey, after: int, index: KeyIndex) -> None:
        """Replay in memory, to no end but to see what is missing."""
        files = load_state_files(self._fs, self._layout, lambda _: None)
        books = Books(files.server.newest or ServerState(server_id=""), files.states)
        _tell_missing(found, books, files)
        for record in found.records(after):
            books.record(record)
        books.give_up_behind()
        told = [loss.text() for loss in books.losses]
        keys = keys_by_numbers(self._counted(found, books, index))
        told += [damage_text(each, keys) for each in self._news(found) if each.numbers]
        if told:
            more = f"; and {len(told) - LOSSES_TOLD} more" if len(told) > LOSSES_TOLD else ""
            raise StorageError(
                f"cannot start with --strict: {self._layout.root} has lost acknowledged events: "
                f"{'; '.join(told[:LOSSES_TOLD])}{more}. Journal and state files are untouched; "
                "without --strict tallymarkd starts, keeps what is damaged, and reports"
            )

    def _news(self, found: Survey) -> list[Damage]:
        """Corrupt places that no start before has told."""
        return [each for each in corrupt(found.report.damage) if not self._history.tells(each)]

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
            next_lsn_min=self._next_lsn_min,
        )
        return journal, Books(state, files.states)

    def _server_id(self, found: Survey) -> uuid.UUID:
        return uuid.UUID(bytes=found.server_id) if found.server_id else self._new_uuid()

    def _set_aside(self, files: StateFiles, books: Books) -> None:
        """Keep damaged generations, now that the whole ones are in use."""
        for each in files.all:
            if each.file.path in each.damaged and each in files.projects and each.newest:
                # Readers look for the newest under its name: save it again.
                books.touched.add(each.newest.board.project_name)
            for path, reason in each.damaged.items():
                kept = each.file.quarantine(path, self._layout.quarantine)
                self._put_aside(path, kept.name, reason)

    def _put_aside(self, path: Path, name: str, reason: str) -> None:
        where = path.relative_to(self._layout.root).as_posix()
        self._report.quarantined.append(name)
        self._report.aside.append(Aside(path=where, name=name, reason=reason))

    def _replay(
        self, found: Survey, books: Books, index: KeyIndex, after: int, files: StateFiles
    ) -> Keys:
        """Step 6. Keys of what is replayed go into the index, too."""
        report = self._report
        _tell_missing(found, books, files)
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
        books.give_up_behind()
        report.new_losses, report.losses = books.new_losses, books.losses
        return self._remember(index, keys, last)

    def _remember(self, index: KeyIndex, keys: list[tuple[int, int]], through_lsn: int) -> Keys:
        """Put keys into the index. On a full disk they stay in memory until there is room:
        a save of the daemon writes them, and another start finds them in the journal."""
        writer = index if index.alone else KeyIndex.open(self._layout.index, check=False)
        found = Keys(index, writer)
        if through_lsn > index.through_lsn:
            try:
                index.add(keys, through_lsn)
            except sqlite3.Error as error:
                log.warning("cannot write the index: %s; trying again later", error)
                for key, lsn in keys:
                    found.settle([key], lsn)
        return found

    def _counted(self, found: Survey, books: Books, index: KeyIndex) -> list[Counted]:
        """Damage for which, as the replay has shown, no total lacks anything."""
        losses = books.server.ledger.losses
        counted = [each for each in found.report.damage if self._history.is_counted(each, losses)]
        numbers = [(each.from_lsn, each.through_lsn) for each in counted]
        return [
            Counted(from_lsn=first, through_lsn=last, keys=keys)
            for (first, last), keys in zip(numbers, index.counts_in(numbers), strict=True)
        ]

    def _tell(self, found: Survey, begun: float) -> None:
        """Step 7: the report goes to the log and into the state directory."""
        report, journal = self._report, found.report
        report.clean = journal.clean
        report.segments = journal.segments
        report.records_read = journal.records
        report.events_read = journal.events
        report.proven_lsn = journal.proven_lsn
        report.next_lsn = journal.next_lsn
        report.damage = journal.damage
        report.cut_bytes = sum(each.end - each.start for each in journal.damage if each.torn)
        news = self._news(found)
        report.new_damage = len(news)
        keys = keys_by_numbers(report.counted)
        report.new_history = sum((each.from_lsn, each.through_lsn) in keys for each in news)
        for name in journal.quarantined:
            segment, _, torn = name.partition(".torn-")
            segment = segment.partition(".corrupt-")[0]
            reason = TORN if torn else CORRUPT
            self._put_aside(self._layout.journal / segment, name, reason)
        report.seconds = round(self._clock() - begun, 6)
        log.info(
            "recovered: %s stop, %d segments, %d events read, %d replayed, %d torn bytes cut, "
            "%d files kept aside, %d places corrupt, %d losses",
            "clean" if report.clean else "unclean",
            report.segments, report.events_read, report.events_replayed, report.cut_bytes,
            len(report.quarantined), len(corrupt(report.damage)), report.new_losses,
        )  # fmt: skip
        for line in report.lines():
            log.warning("%s", line)
        keep_report(self._fs, self._layout, report, self._history)


def _tell_missing(found: Survey, books: Books, files: StateFiles) -> None:
    if missing := missing_part(found, files):
        books.miss(*missing)
