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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tallymark.errors import DamagedError, NewerFormatError
from tallymark.fs import FileSystem, write_file
from tallymarkd.core import project_file
from tallymarkd.core.apply import ProjectState
from tallymarkd.core.books import Books, ServerState, decode_server
from tallymarkd.core.keys import Keys, unpack_keys
from tallymarkd.core.layout import PROJECT_FILE, SERVER_FILE, Layout
from tallymarkd.storage.index import KeyIndex
from tallymarkd.storage.journal import Journal, JournalSettings
from tallymarkd.storage.recovery import open_journal
from tallymarkd.storage.state_file import StateFile
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
class _Generations:
    """A state file's generations: the newest whole one, and how far each reaches."""

    file: StateFile
    body: Any = None
    reaches: list[int] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)


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
        server = self._load(self._layout.root, SERVER_FILE, decode_server)
        projects = self._load_projects()
        index = self._open_index()
        found = self._survey(server, projects, index)
        journal, books = self._open(found, server, projects)
        self._set_aside(server, projects)
        keys = self._replay(found, books, index)
        self._tell(found, books, begun)
        reaches = {state.body.board.project_name: state.reaches
                   for state in projects if state.body is not None}  # fmt: skip
        return Restored(books, journal, keys, self._report, reaches, server.reaches)

    def _sync_names(self) -> None:
        """Step 0: a name may be in memory only; make it durable before believing it."""
        for path in (self._layout.root, self._layout.journal, self._layout.projects):
            if self._fs.exists(path):
                self._fs.sync_dir(path)

    def _load(self, directory: Path, name: str, decode: Callable[[bytes], Any]) -> _Generations:
        file = StateFile(self._fs, directory, name)
        found = _Generations(file)
        for path, body in file.generations():
            try:
                if body is None:
                    raise DamagedError("it cannot be read")
                state = decode(body)
            except NewerFormatError as error:
                raise NewerFormatError(f"cannot open {path}: {error}") from None
            except DamagedError as error:
                log.warning("cannot use %s: %s; it will be kept in %s",
                            path, error, self._layout.quarantine)  # fmt: skip
                found.damaged.append(path)
                continue
            found.reaches.append(state.applied_lsn)
            if found.body is None:
                found.body = state
        return found

    def _load_projects(self) -> list[_Generations]:
        root = self._layout.projects
        return [
            self._load(root / name, PROJECT_FILE, project_file.decode)
            for name in self._fs.names(root)
        ]

    def _open_index(self) -> KeyIndex:
        path = self._layout.index
        try:
            return KeyIndex.open(path)
        except DamagedError as error:
            log.warning("cannot use the index: %s; rebuilding it from the journal", error)
            self._report.index_rebuilt = True
            for suffix in ("", "-wal", "-shm"):
                self._fs.unlink(path.with_name(path.name + suffix))
            return KeyIndex.open(path)

    def _survey(
        self, server: _Generations, projects: list[_Generations], index: KeyIndex
    ) -> Survey:
        """Steps 2: how far must the journal reach, and from where is it read?"""
        evidence = [reach for each in (server, *projects) for reach in each.reaches]
        self._replay_after = min(self._needs(server, projects), index.through_lsn)
        return survey(
            self._fs,
            self._layout.journal,
            evidence_lsn=max(evidence, default=0),
            read_after_lsn=self._replay_after,
        )

    def _needs(self, server: _Generations, projects: list[_Generations]) -> int:
        """The number after which some state file needs the journal."""
        if server.body is None:
            return 0
        state: ServerState = server.body
        reaches = {p.body.board.project_name: p.body.applied_lsn for p in projects if p.body}
        behind = [
            reaches.get(name, 0)
            for name, last in state.last_lsn.items()
            if reaches.get(name, 0) < last
        ]
        return min(state.applied_lsn, *behind) if behind else state.applied_lsn

    def _open(
        self, found: Survey, server: _Generations, projects: list[_Generations]
    ) -> tuple[Journal, Books]:
        """Steps 3 to 5."""
        state: ServerState | None = server.body
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
        states: dict[str, ProjectState] = {
            each.body.board.project_name: each.body for each in projects if each.body is not None
        }
        return journal, Books(state, states)

    def _server_id(self, found: Survey) -> uuid.UUID:
        return uuid.UUID(bytes=found.server_id) if found.server_id else self._new_uuid()

    def _set_aside(self, server: _Generations, projects: list[_Generations]) -> None:
        """Keep damaged generations, now that the whole ones are in use."""
        for each in (server, *projects):
            for path in each.damaged:
                kept = each.file.quarantine(path, self._layout.quarantine)
                self._report.quarantined.append(kept.name)

    def _replay(self, found: Survey, books: Books, index: KeyIndex) -> Keys:
        """Step 6. Keys of what is replayed go into the index, too."""
        report = self._report
        losses = len(books.server.ledger.losses)
        keys: list[tuple[int, int]] = []
        last = index.through_lsn
        for record in found.records(self._replay_after):
            entry = books.record(record)
            report.records_replayed += 1
            if entry is not None:
                report.events_replayed += record.count
                if record.last_lsn > index.through_lsn:
                    keys.extend((key, record.lsn) for key in unpack_keys(entry.keys))
            last = max(last, record.last_lsn)
        if last > index.through_lsn:
            index.add(keys, last)
        report.new_losses = len(books.server.ledger.losses) - losses
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
