"""Saving state files and retiring segments, off the hot path.

One file at a time, the one that has waited longest first, encoded and written
on a thread of its own while events go on arriving. Between two saves there is
a pause of four times as long as the first one took, so that saving never takes
more than a fifth of the time.

A segment is retired when every project with records in it has its *oldest*
generation past them. So a state file that is lost with all but one of its
backups is rebuilt from the journal without a gap.

Nothing is retired while a backup holds it (holds.py).

The files are the daemon's alone. One that somebody else has changed is kept
aside, what is in memory is saved in its place, and health says so.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tallymark.fs import FileSystem
from tallymarkd.core import project_file
from tallymarkd.core.books import Books
from tallymarkd.core.holds import Holds
from tallymarkd.core.keys import Keys
from tallymarkd.core.layout import PROJECT_FILE, SERVER_FILE, Layout
from tallymarkd.core.ledger import encode_server
from tallymarkd.core.project_state import freeze
from tallymarkd.storage.journal import Journal, SealedSegment
from tallymarkd.storage.state_file import BACKUPS, Foreign, StateFile

GENERATIONS = BACKUPS + 1
SAVE_SHARE_MAX = 0.2
"""Most of the time that saving may take."""

SERVER = ""
"""Stands for ``server.json`` among the names of projects, which are never empty."""

NANOS_PER_DAY = 86_400 * 10**9

log = logging.getLogger("tallymarkd")

Saved = tuple[int, Foreign | None]
"""How far a saved file reaches, and what somebody else had made of the one before."""

Job = Callable[[], Any]
RunJob = Callable[[Job, Callable[[Any, BaseException | None], None]], None]
"""Runs a job on another thread; then calls back, on the loop, with its result or error."""

CallLater = Callable[[float, Callable[[], None]], Any]


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """When to save, and how much history to keep."""

    save_interval_seconds: float
    history_bytes_max: int
    history_days_max: int


@dataclass(slots=True)
class SaveFailure:
    """The last thing that could not be saved."""

    what: str
    error: str
    since: float


@dataclass(slots=True)
class _Target:
    """One state file: since when it is dirty, how far each generation reaches."""

    file: StateFile
    reaches: list[int] = field(default_factory=list)
    dirty_since: float | None = None

    def past(self, lsn: int) -> bool:
        return len(self.reaches) == GENERATIONS and min(self.reaches) >= lsn


class Checkpointer:
    """Decides what to save and when. Loop thread; the jobs run elsewhere."""

    def __init__(
        self,
        fs: FileSystem,
        layout: Layout,
        books: Books,
        journal: Journal,
        keys: Keys,
        settings: CheckpointSettings,
        *,
        run_job: RunJob,
        call_later: CallLater,
        clock: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._fs = fs
        self._layout = layout
        self._books = books
        self._journal = journal
        self._keys = keys
        self.settings = settings
        self._run_job = run_job
        self._call_later = call_later
        self._clock = clock
        self._clock_ns = clock_ns
        self._targets: dict[str, _Target] = {}
        self._timer: Any = None
        self._busy = False
        self._stopped = False
        self._not_before = 0.0
        self._began = 0.0
        self._retire_failed = False
        self.holds = Holds(lambda: self._schedule(0.0), clock=clock)
        self.failure: SaveFailure | None = None
        self.foreign: Foreign | None = None
        """The last state file that somebody else had changed, in this run."""
        self.saves = 0

    def adopt(self, reaches: dict[str, list[int]], server_reaches: list[int]) -> None:
        """Take over how far the generations on disk reach, as recovery found them."""
        for project, found in reaches.items():
            self._target(project).reaches = list(found)
        self._target(SERVER).reaches = list(server_reaches)
        for target in self._targets.values():
            target.file.know()

    def note(self) -> None:
        """Something was applied: see that it is saved in time."""
        now = self._clock()
        for project in self._books.touched:
            target = self._target(project)
            if target.dirty_since is None:
                target.dirty_since = now
        self._books.touched.clear()
        server = self._target(SERVER)
        if server.dirty_since is None:
            server.dirty_since = now
        self._schedule(self.settings.save_interval_seconds)

    def use(self, settings: CheckpointSettings) -> None:
        """Go on with these: what is dirty, or over its limit by them, has its turn at once."""
        self.settings = settings
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.failure is not None:
            patience = self._clock() + settings.save_interval_seconds
            self._not_before = min(self._not_before, patience)
        self._go_on()

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def save_all(self, deadline: float) -> list[str]:
        """Save what is dirty, here and now; gives the names that there was no time for."""
        while (name := self._most_urgent()) is not None:
            if self._clock() >= deadline:
                return [
                    name or SERVER_FILE
                    for name, target in self._targets.items()
                    if target.dirty_since is not None
                ]
            self._finish(name, *_attempt(self._job(name)))
            if self.failure is not None:
                self._targets[name].dirty_since = None
        return []

    @property
    def reaches(self) -> dict[str, list[int]]:
        """How far each file's generations are taken to reach, newest first."""
        return {name: list(target.reaches) for name, target in self._targets.items()}

    @property
    def oldest_dirty_seconds(self) -> float:
        """For how long the longest waiting change is not saved yet."""
        since = [t.dirty_since for t in self._targets.values() if t.dirty_since is not None]
        return self._clock() - min(since) if since else 0.0

    def _target(self, name: str) -> _Target:
        target = self._targets.get(name)
        if target is None:
            directory = self._layout.project(name) if name else self._layout.root
            file = StateFile(
                self._fs, directory, PROJECT_FILE if name else SERVER_FILE,
                aside_prefix=directory.name if name else "",
            )  # fmt: skip
            target = self._targets[name] = _Target(file)
        return target

    def _schedule(self, seconds: float) -> None:
        if self._timer is None and not self._busy and not self._stopped:
            seconds = max(seconds, self._not_before - self._clock())
            self._timer = self._call_later(seconds, self._begin)

    def _most_urgent(self) -> str | None:
        """The name that has waited longest."""
        dirty = [
            (target.dirty_since, name == SERVER, name)
            for name, target in self._targets.items()
            if target.dirty_since is not None
        ]
        return min(dirty)[2] if dirty else None

    def _begin(self) -> None:
        self._timer = None
        if self._stopped or (self._may_retire and self._retire()):
            return
        name = self._most_urgent()
        if name is None:
            return
        self._busy = True
        self._began = self._clock()

        def done(result: Any, error: BaseException | None) -> None:
            self._busy = False
            self._finish(name, result, error)
            self._next(failed=error is not None)

        self._run_job(self._job(name), done)

    def _next(self, *, failed: bool) -> None:
        """Rest, then go on: with what is dirty, or with history that is over its limit."""
        now = self._clock()
        self._not_before = now + (now - self._began) * (1 / SAVE_SHARE_MAX - 1)
        if failed:
            self._not_before += self.settings.save_interval_seconds
        self._go_on()

    def _go_on(self) -> None:
        history_over_limit = self._may_retire and self._over_limit() is not None
        if self._most_urgent() is not None or history_over_limit:
            self._schedule(0.0)

    def _job(self, name: str) -> Job:
        """What another thread has to do; everything it needs is taken here and now."""
        target = self._targets[name]
        target.dirty_since = None
        if name == SERVER:
            return self._server_job(target)
        view = freeze(self._books.projects[name])
        server_id = self._books.server.server_id
        fs, directory, root = self._fs, target.file.directory, self._layout.projects
        aside = self._layout.quarantine

        def save() -> Saved:
            if not fs.exists(directory):
                fs.mkdir(directory)
                fs.sync_dir(root)
                fs.sync_dir(root.parent)
            body = b"".join(project_file.encode_view(view, server_id=server_id))
            return view.applied_lsn, target.file.save(body, aside=aside)

        return save

    def _server_job(self, target: _Target) -> Job:
        """The index goes first: ``server.json`` must never be ahead of it."""
        reach = self._books.server.applied_lsn
        body = encode_server(self._books.server)
        self._keys.begin_write()
        keys, aside = self._keys, self._layout.quarantine

        def save() -> Saved:
            keys.write(reach)
            return reach, target.file.save(body, aside=aside)

        return save

    def _finish(self, name: str, saved: Any, error: BaseException | None) -> None:
        target = self._targets[name]
        if error is None:
            reach, foreign = saved
            if foreign is not None:
                self._tell_foreign(target, foreign)
            target.reaches = [reach, *target.reaches][:GENERATIONS]
            self.saves += 1
            self._retire_failed = False
            if self.failure is not None and self.failure.what == str(target.file.path):
                self.failure = None
            if name == SERVER:
                self._keys.end_write()
            return
        if not isinstance(error, OSError | sqlite3.Error):
            raise error
        target.dirty_since = self._clock()
        what = str(target.file.path)
        self.failure = SaveFailure(what, str(error), self._clock())
        log.warning("cannot save %s: %s; trying again later", what, error)

    def _tell_foreign(self, target: _Target, foreign: Foreign) -> None:
        """The generation that was the newest is gone; nothing moved into its place."""
        del target.reaches[:1]
        self.foreign = foreign
        if foreign.kept is None:
            log.warning("%s was removed by another program; saved again", foreign.path)
        else:
            log.warning("%s was changed by another program; what it had made of it is kept as %s",
                        foreign.path, foreign.kept)  # fmt: skip

    @property
    def _may_retire(self) -> bool:
        return not self._retire_failed and not self.holds

    def _retire(self) -> bool:
        """Retire the oldest segment if history is over its limit and nothing needs it.

        True when that has begun. A quiet project that needs it becomes dirty,
        until all of its generations are past.
        """
        segment = self._over_limit()
        if segment is None:
            return False
        pinning = self._pinning(segment) or self._announce(segment)
        if not pinning:
            self._busy = True
            self._began = self._clock()
            self.holds.begin()
            self._run_job(lambda: self._retire_job(segment), self._retired)
            return True
        for name in pinning:
            target = self._target(name)
            if target.dirty_since is None:
                target.dirty_since = self._clock()
        return False

    def _announce(self, segment: SealedSegment) -> list[str]:
        """Have every generation of ``server.json`` say that the segment may go.

        So that a later start can tell it from one that somebody has removed.
        """
        server = self._books.server
        if server.retired_lsn >= segment.last_lsn:
            return []
        server.retired_lsn = segment.last_lsn
        self._target(SERVER).reaches.clear()
        return [SERVER]

    def _over_limit(self) -> SealedSegment | None:
        sealed = self._journal.sealed()
        if not sealed:
            return None
        oldest = sealed[0]
        following = sealed[1].created_ns if len(sealed) > 1 else self._journal.active_created_ns
        age_days = (self._clock_ns() - following) / NANOS_PER_DAY
        size = self._journal.size_bytes()
        if size > self.settings.history_bytes_max or age_days > self.settings.history_days_max:
            return oldest
        return None

    def _pinning(self, segment: SealedSegment) -> list[str]:
        """Files that still need the segment."""
        server = self._books.server
        found: list[str] = []
        for name, last in server.last_lsn.items():
            absent = name not in self._books.projects
            if absent or server.first_lsn.get(name, 0) > segment.last_lsn:
                continue
            if not self._target(name).past(min(segment.last_lsn, last)):
                found.append(name)
        if not self._target(SERVER).past(segment.last_lsn):
            found.append(SERVER)
        return found

    def _retire_job(self, segment: SealedSegment) -> int:
        """The keys go last: they are remembered for at least as long as their events are."""
        self._journal.retire(segment.number)
        self._keys.forget_before(segment.last_lsn + 1)
        return segment.number

    def _retired(self, number: Any, error: BaseException | None) -> None:
        self._busy = False
        self.holds.end()
        if error is None:
            log.info("retired segment %d of the journal", number)
        elif isinstance(error, OSError | sqlite3.Error):
            # Saving goes on; the next save that succeeds is when to try again.
            self._retire_failed = True
            log.warning("cannot retire the oldest segment: %s; trying again later", error)
        else:
            raise error
        self._next(failed=error is not None)


def _attempt(job: Job) -> tuple[Any, BaseException | None]:
    try:
        return job(), None
    except (OSError, sqlite3.Error) as error:
        return None, error
