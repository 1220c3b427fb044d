"""State files held against an independent replay of the journal.

A project's generations are gone through from the oldest on: each must be what
the one before becomes by the records in between. Where the journal still has
everything from its beginning, the first must come out of nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tallymark.fs import FileSystem, read_file
from tallymark.record import Kind, Record
from tallymarkd.core import project_file
from tallymarkd.core.apply import ProjectState, apply, empty
from tallymarkd.core.entry import Batch, Entry, open_entry
from tallymarkd.core.layout import PROJECT_FILE, SERVER_FILE, Layout
from tallymarkd.core.ledger import ServerState, decode_server
from tallymarkd.core.loading import Generations, StateFiles, read_generations
from tallymarkd.core.project_state import freeze
from tallymarkd.core.verify_report import GenerationPart, StateFilePart, VerifyReport
from tallymarkd.storage.state_file import StateFile

RETIRED = "it does not reach back so far"
NEEDS_RETIRED = (
    "it needs history that was retired; were the newer generations lost, a start from it "
    "would miss events"
)
LOSSES_BETWEEN = "it has lost numbers before that"


@dataclass(slots=True)
class Losses:
    """Ranges of numbers that the journal has lost, as the walk meets them."""

    ranges: list[tuple[int, int]] = field(default_factory=list)

    def within(self, after_lsn: int, through_lsn: int) -> bool:
        """Whether any of these numbers is lost."""
        return any(first <= through_lsn and last > after_lsn for first, last in self.ranges)


@dataclass(slots=True)
class Loaded:
    """The state files: as recovery sees them, and as the report tells them."""

    files: StateFiles
    server: StateFilePart
    servers: list[tuple[GenerationPart, ServerState]]
    projects: list[StateFilePart]


def load(fs: FileSystem, layout: Layout, report: VerifyReport) -> Loaded:
    """Read every generation. Raises ``NewerFormatError``."""
    servers: list[tuple[GenerationPart, ServerState]] = []

    def keep(part: GenerationPart, state: ServerState) -> None:
        servers.append((part, state))

    server, server_part = _read(fs, layout.root, SERVER_FILE, decode_server, report, keep)
    owners: dict[str, str] = {}

    def decode(body: bytes) -> tuple[ProjectState, str]:
        return project_file.decode_owned(body)

    found, parts = [], []
    for name in fs.names(layout.projects):
        generations, part = _read(
            fs, layout.projects / name, PROJECT_FILE, decode, report,
            lambda each, state: owners.update({each.path: state[1]}),
        )  # fmt: skip
        found.append(generations)
        if generations.newest is not None:
            part.project = generations.newest.board.project_name
        if part.generations:
            parts.append(part)
    server_id = servers[0][1].server_id if servers else ""
    for path, owner in owners.items():
        if server_id and owner != server_id:
            report.find("disagrees", f"{path} belongs to the daemon of another state directory")
    report.state_files = [*([server_part] if server_part.generations else []), *parts]
    return Loaded(StateFiles(server, found), server_part, servers, parts)


def _read(
    fs: FileSystem,
    directory: Path,
    name: str,
    decode: Callable[[bytes], Any],
    report: VerifyReport,
    keep: Callable[[GenerationPart, Any], object],
) -> tuple[Generations, StateFilePart]:
    found = Generations(StateFile(fs, directory, name))
    part = StateFilePart(name=name if name == SERVER_FILE else directory.name)
    for path, decoded, reason in read_generations(found.file, decode, "verify"):
        generation = GenerationPart(path=str(path), whole=not reason, reason=reason)
        part.generations.append(generation)
        if reason:
            found.damaged[path] = reason
            report.find("damaged", f"{path}: {reason}")
            continue
        state = decoded[0] if isinstance(decoded, tuple) else decoded
        generation.applied_lsn = state.applied_lsn
        found.reaches.append(state.applied_lsn)
        found.newest = found.newest or state
        keep(generation, decoded)
    return found, part


class Track:
    """One project on its way through the journal."""

    def __init__(
        self,
        fs: FileSystem,
        part: StateFilePart,
        losses: Losses,
        begins_after_lsn: int,
        retired_lsn: int,
    ) -> None:
        self._fs = fs
        self._part = part
        self._losses = losses
        self._begins_after_lsn = begins_after_lsn
        self._state: ProjectState | None = None
        self._base: GenerationPart | None = None
        whole = [each for each in part.generations if each.whole]
        self._todo = sorted(whole, key=lambda each: each.applied_lsn)
        if begins_after_lsn:
            self._begin(any_will_do=begins_after_lsn <= retired_lsn)

    def _begin(self, *, any_will_do: bool) -> None:
        """From the oldest generation on that the journal reaches back to, or else the newest.

        Where history was retired under the rules, that is the oldest of all: it
        had nothing in there that it has not.
        """
        while self._todo:
            first = self._todo.pop(0)
            first.reason = RETIRED
            if any_will_do or first.applied_lsn >= self._begins_after_lsn or not self._todo:
                self._state, self._base = self._decode(first), first
                return

    @property
    def _base_lsn(self) -> int:
        return self._base.applied_lsn if self._base is not None else 0

    def _decode(self, part: GenerationPart) -> ProjectState:
        return project_file.decode(read_file(self._fs, Path(part.path)))

    def take(self, record: Record, entry: Entry) -> None:
        """A batch or tombstone of this project."""
        self._hold(record.lsn)
        batch = _batch_of(record, entry)
        if self._state is None:
            self._state = empty(entry.project, batch.received_at)
        apply(self._state, batch, record.lsn)

    def finish(self) -> None:
        """The journal is at its end."""
        self._hold(None)

    def _hold(self, before_lsn: int | None) -> None:
        """Hold every generation that ends before this number against the replay."""
        while self._todo and (before_lsn is None or self._todo[0].applied_lsn < before_lsn):
            part = self._todo.pop(0)
            theirs = self._decode(part)
            ours = self._state
            part.agrees = ours is not None and _content(ours) == _content(theirs)
            if not part.agrees:
                self._differ(part)
                self._state = theirs
            self._base = part

    def _differ(self, part: GenerationPart) -> None:
        """Say of a generation why it is not what the one before becomes."""
        base = self._base
        if self._losses.within(self._base_lsn, part.applied_lsn):
            part.agrees, part.reason = None, LOSSES_BETWEEN
        elif base is not None and base.applied_lsn < self._begins_after_lsn:
            base.agrees, base.reason = False, NEEDS_RETIRED
            part.agrees, part.reason = None, RETIRED
        else:
            part.reason = "replaying the journal gives something else"


def _batch_of(record: Record, entry: Entry) -> Batch:
    if record.kind == Kind.BATCH:
        return open_entry(entry)
    received_at = datetime.fromtimestamp(entry.received_ns / 1e9, UTC)
    return Batch([None] * record.count, received_at=received_at, verdicts=entry.verdicts)


def _content(state: ProjectState) -> bytes:
    """Everything that a file holds, but for how far it reaches: a start may have
    moved that over numbers that are lost."""
    view = freeze(state)._replace(applied_lsn=0)
    return b"".join(project_file.encode_view(view, server_id=""))
