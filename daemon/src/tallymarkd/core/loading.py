"""The state files as they lie on disk, and how far back replay must begin.

Reads only. The daemon's start (restore.py) and readers without a daemon
(``read_only``) share it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tallymark.errors import DamagedError, NewerFormatError, StorageError
from tallymark.fs import FileSystem
from tallymarkd.core import project_file
from tallymarkd.core.books import Books
from tallymarkd.core.layout import PROJECT_FILE, SERVER_FILE, Layout
from tallymarkd.core.ledger import ServerState, decode_server
from tallymarkd.core.project_state import ProjectState
from tallymarkd.core.replacing import refuse_unfinished
from tallymarkd.storage import index
from tallymarkd.storage.state_file import StateFile
from tallymarkd.storage.survey import Survey, refuse_newer, survey

log = logging.getLogger("tallymarkd")


@dataclass(slots=True)
class Generations:
    """A state file's generations: the newest whole one, how far each whole one
    reaches, and those that are damaged, with what is wrong with each. One that has
    two names counts once."""

    file: StateFile
    newest: Any = None
    reaches: list[int] = field(default_factory=list)
    damaged: dict[Path, str] = field(default_factory=dict)


@dataclass(slots=True)
class StateFiles:
    """Everything that was saved."""

    server: Generations
    projects: list[Generations]

    @property
    def all(self) -> list[Generations]:
        """Every state file."""
        return [self.server, *self.projects]

    @property
    def evidence_lsn(self) -> int:
        """The highest number that a state file proves to have been durable."""
        return max((reach for each in self.all for reach in each.reaches), default=0)

    @property
    def states(self) -> dict[str, ProjectState]:
        """Each project's newest whole state, by name."""
        whole: list[ProjectState] = [each.newest for each in self.projects if each.newest]
        return {state.board.project_name: state for state in whole}

    @property
    def reaches(self) -> dict[str, list[int]]:
        """How far each project's generations reach, newest first."""
        return {
            each.newest.board.project_name: each.reaches for each in self.projects if each.newest
        }

    @property
    def needs(self) -> dict[str, int]:
        """The state files that need the journal, each with the number after which."""
        server: ServerState | None = self.server.newest
        if server is None:
            return {SERVER_FILE: 0}
        states = self.states
        reaches = {
            # A project of which no file is left has nothing before its first number.
            name: states[name].applied_lsn if name in states else server.first_lsn.get(name, 1) - 1
            for name in server.last_lsn
        }
        behind = {name: reach for name, reach in reaches.items() if reach < server.last_lsn[name]}
        return {SERVER_FILE: server.applied_lsn, **behind}

    def lacking(self, begins_after_lsn: int) -> dict[str, int]:
        """Those that need what stood before the journal's beginning, likewise.

        What was retired under the rules is not missed by a project of which any
        generation is left: it had nothing there that this generation has not.
        """
        server: ServerState | None = self.server.newest
        retired = server is not None and begins_after_lsn <= server.retired_lsn
        states = self.states
        return {
            name: reach
            for name, reach in self.needs.items()
            if reach < begins_after_lsn and not (retired and name in states)
        }

    def lacks(self, lsn: int) -> bool:
        """Whether some state file needs the journal for this number."""
        server: ServerState | None = self.server.newest
        if server is None or lsn > server.applied_lsn:
            return True
        last = server.last_lsn
        return any(reach < lsn <= last.get(name, 0) for name, reach in self.needs.items())

    @property
    def replay_after_lsn(self) -> int:
        """The number after which some state file needs the journal."""
        return min(self.needs.values())


Tell = Callable[[str], object]
"""Takes a line about a file that is damaged."""


def load_state_files(fs: FileSystem, layout: Layout, tell: Tell = log.warning) -> StateFiles:
    """Read every generation. Raises ``NewerFormatError`` for one of a newer format."""
    server = _load(fs, layout.root, SERVER_FILE, decode_server, tell)
    projects = [
        _load(fs, layout.projects / name, PROJECT_FILE, project_file.decode, tell)
        for name in fs.names(layout.projects)
    ]
    return StateFiles(server, projects)


def _load(
    fs: FileSystem, directory: Path, name: str, decode: Callable[[bytes], Any], tell: Tell
) -> Generations:
    prefix = directory.name if name == PROJECT_FILE else ""
    found = Generations(StateFile(fs, directory, name, aside_prefix=prefix))
    for path, state, reason in read_generations(found.file, decode, "open"):
        if reason:
            tell(f"cannot use {path}: {reason}")
            found.damaged[path] = reason
            continue
        if not (path == found.file.backup_paths[0] and found.file.has_two_names()):
            found.reaches.append(state.applied_lsn)
        if found.newest is None:
            found.newest = state
    return found


def missing_part(found: Survey, files: StateFiles) -> tuple[int, int, str] | None:
    """What state files need and the journal does not have at its beginning or its end: the
    first and the last number, none when the last is the smaller, and in words."""
    begins_after, end = found.begins_after_lsn, found.report.end_lsn
    if lacking := files.lacking(begins_after):
        reason = f"the journal begins later than {', '.join(lacking)} would need"
        return min(lacking.values()) + 1, begins_after, reason
    if begins_after and not found.segments:
        return begins_after + 1, begins_after, "there is no journal behind the state files"
    server: ServerState | None = files.server.newest
    if found.loses_its_end and end <= (server.applied_lsn if server else 0):
        return end + 1, end, "the journal's end is gone, and what may have stood behind it"
    return None


def read_generations(
    file: StateFile, decode: Callable[[bytes], Any], verb: str
) -> Iterator[tuple[Path, Any, str]]:
    """Each generation, newest first: its path, what it decodes to, and why it does not.

    Raises ``NewerFormatError``, and ``StorageError`` for one that this user may not
    read; both say what cannot be done by ``verb``.
    """
    for path, body in _bodies(file, verb):
        try:
            if body is None:
                raise DamagedError("it cannot be read")
            state, reason = decode(body), ""
        except NewerFormatError as error:
            raise NewerFormatError(f"cannot {verb} {path}: {error}") from None
        except DamagedError as error:
            state, reason = None, str(error)
        yield path, state, reason


def _bodies(file: StateFile, verb: str) -> Iterator[tuple[Path, bytes | None]]:
    try:
        yield from file.generations(raise_denied=True)
    except PermissionError as error:
        what = error.filename or f"{file.path} or a backup of it"
        raise StorageError(
            f"cannot {verb} {what}: {error.strerror}; make it readable for the user that "
            "tallymarkd runs as, who should own all that is there (chown)"
        ) from error


def read_only(fs: FileSystem, root: Path, tell: Tell = log.warning) -> Books:
    """The last durable state of everything, replayed in memory; nothing is changed.

    Safe beside a running daemon: what it is writing just now may be left out.
    Raises ``NewerFormatError``, ``StorageError`` and ``OSError``.
    """
    layout = Layout(root)
    refuse_unfinished(fs, layout, "read")
    refuse_newer(fs, layout.journal)
    index.refuse_newer(layout.index)
    files = load_state_files(fs, layout, tell)
    after = files.replay_after_lsn
    found = survey(fs, layout.journal, evidence_lsn=files.evidence_lsn, read_after_lsn=after)
    books = Books(files.server.newest or ServerState(server_id=""), files.states)
    for record in found.records(after):
        books.record(record)
    return books
