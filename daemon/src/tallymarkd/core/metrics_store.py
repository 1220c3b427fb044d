"""``MetricsStore``: the state of a project in a directory, without a daemon.

Programs that keep ``.agent_metrics.json`` themselves use this. Many threads
and many processes may use one directory: ``update`` loads, changes and saves
under one lock, so that nobody's change is lost. A directory that a daemon owns
is output only.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import filelock
import msgspec

from tallymark.errors import DamagedError, NewerFormatError, StorageError
from tallymark.fs import FileSystem, OsFileSystem
from tallymark.state import EVENTS_MAX, SESSIONS_MAX, DashboardState
from tallymarkd.core import project_file
from tallymarkd.core.plain_state import state_from
from tallymarkd.core.project_state import snapshot
from tallymarkd.storage.state_file import StateFile
from tallymarkd.text import json_fault

MAX_EVENTS = EVENTS_MAX
MAX_SESSIONS = SESSIONS_MAX
LOCK_TIMEOUT = 10.0
"""Seconds to wait for another thread or process before giving up. Can be set here
for all stores, in the class, or in one store."""

_LOCK_TIMEOUT_UNCHANGED = LOCK_TIMEOUT

LOCK_POLL_SECONDS = 0.01

STATE_NAME = ".agent_metrics.json"
LOCK_NAME = ".agent_metrics.lock"
QUARANTINE_NAME = "quarantine"

log = logging.getLogger("tallymarkd")


class LockAcquisitionError(StorageError):
    """Another thread or process held the lock for too long; nothing was changed."""


class DaemonOwnedError(StorageError):
    """A daemon owns the directory: it can be read, and only the daemon writes it."""


class Stats(TypedDict):
    """What ``get_stats`` gives."""

    metrics_file_exists: bool
    backup_file_exists: bool
    metrics_file_size_bytes: int
    backup_file_size_bytes: int
    event_count: int
    session_count: int
    agent_count: int


def _now() -> datetime:
    return datetime.now(UTC)


class MetricsStore:
    """The state of one project in ``metrics_dir`` (default: the current directory).

    ``load`` takes no lock. ``save`` and ``update`` hold the lock, raise
    ``LockAcquisitionError`` after ``LOCK_TIMEOUT`` seconds, ``DaemonOwnedError``
    where a daemon writes, and ``OSError`` with the former state in place.
    Safe to use from many threads.
    """

    MAX_EVENTS = MAX_EVENTS
    MAX_SESSIONS = MAX_SESSIONS
    LOCK_TIMEOUT = LOCK_TIMEOUT

    def __init__(
        self,
        project_name: str,
        metrics_dir: Path | str | None = None,
        *,
        fs: FileSystem | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.project_name = project_name
        self.metrics_dir = Path.cwd() if metrics_dir is None else Path(metrics_dir)
        self._fs: FileSystem = OsFileSystem() if fs is None else fs
        self._clock = clock
        self._file = StateFile(self._fs, self.metrics_dir, STATE_NAME)
        self._thread_lock = threading.Lock()
        self._holder: int | None = None

    @property
    def metrics_path(self) -> Path:
        return self._file.path

    @property
    def backup_path(self) -> Path:
        """The newest backup; older ones stand beside it as ``.bak.2`` and ``.bak.3``."""
        return self._file.backup_paths[0]

    @property
    def lock_path(self) -> Path:
        return self.metrics_dir / LOCK_NAME

    @property
    def quarantine_path(self) -> Path:
        """Where damaged files are kept."""
        return self.metrics_dir / QUARANTINE_NAME

    def load(self) -> DashboardState:
        """The newest whole state, or a fresh one if nothing was ever saved.

        A damaged file is moved to ``quarantine/`` and the newest whole backup
        counts. Raises ``NewerFormatError`` for a file of a newer version, and
        ``StorageError`` when something is there that cannot be read and no
        whole state beside it.
        """
        found = self._read()
        if found.damaged and not found.server_id:
            self._set_aside_when_free()
        return found.state

    def save(self, state: DashboardState | Mapping[str, Any]) -> None:
        """Replace the state, whatever is there; ``updated_at`` becomes the time of the save.

        Keeps the newest 500 events and 50 sessions. Raises ``ValueError`` for
        what is no valid state, with nothing changed. To change what is there,
        use ``update``, which cannot lose what others save meanwhile.
        """
        valid = self._fitting(state)
        with self._locked():
            self._prepare()
            self._write(valid)

    def update(self, change: Callable[[DashboardState], Any]) -> DashboardState:
        """Load, ``change``, and save under one lock; gives what was saved.

        ``change`` changes the state it is given, or returns another one. What
        it raises comes out, with nothing saved. It must not call ``save`` or
        ``update`` of this store.
        """
        with self._locked():
            state = self._prepare()
            changed = change(state)
            valid = self._fitting(state if changed is None else changed)
            self._write(valid)
        return valid

    def validate(self, state: object) -> bool:
        """Whether ``state`` could be saved."""
        try:
            state_from(state)
        except ValueError:
            return False
        return True

    def get_stats(self) -> Stats:
        """Sizes of the files, and how much is in the state. Takes no lock."""
        state = self.load()
        main, backup = self._size(self.metrics_path), self._size(self.backup_path)
        return Stats(
            metrics_file_exists=main is not None,
            backup_file_exists=backup is not None,
            metrics_file_size_bytes=main or 0,
            backup_file_size_bytes=backup or 0,
            event_count=len(state.events),
            session_count=len(state.sessions),
            agent_count=len(state.agents),
        )

    def _fitting(self, state: object) -> DashboardState:
        valid = state_from(state)
        return msgspec.structs.replace(
            valid,
            events=valid.events[-self.MAX_EVENTS :],
            sessions=valid.sessions[-self.MAX_SESSIONS :],
        )

    def _prepare(self) -> DashboardState:
        """Under the lock: the state that is there, with damaged files out of the way."""
        found = self._read()
        if found.server_id:
            raise DaemonOwnedError(
                f"cannot save to {self.metrics_dir}: the daemon {found.server_id} writes there; "
                "send events to it, or use another directory"
            )
        self._set_aside(found.damaged)
        return found.state

    def _write(self, state: DashboardState) -> None:
        state.updated_at = self._clock()
        self._file.save(msgspec.json.encode(state) + b"\n")

    def _read(self) -> _Found:
        """The newest whole generation. One that is damaged counts for nothing."""
        damaged: list[Path] = []
        unreadable: Path | None = None
        owner = ""
        for path, body in self._file.generations():
            if body is None:
                unreadable = unreadable or path
                damaged.append(path)
                continue
            try:
                state, server_id = _decode(body)
            except NewerFormatError as error:
                raise NewerFormatError(f"cannot use {path}: {error}") from None
            except (DamagedError, ValueError) as error:
                log.warning("cannot use %s: %s", path, error)
                damaged.append(path)
                owner = owner or _owner_of_damaged(body)
                continue
            return _Found(state, server_id or owner, damaged)
        if unreadable is not None:
            raise StorageError(
                f"cannot read {unreadable}, and there is no whole backup beside it; "
                "see to its permissions and its disk"
            )
        now = self._clock()
        fresh = DashboardState(project_name=self.project_name, created_at=now, updated_at=now)
        return _Found(fresh, owner, damaged)

    def _set_aside_when_free(self) -> None:
        """Move damaged files away if nobody is writing; else the next writer does."""
        if self._holder == threading.get_ident():
            return
        with contextlib.suppress(StorageError, OSError), self._locked(timeout=0.0):
            # Read again: somebody may have saved since.
            found = self._read()
            if not found.server_id:
                self._set_aside(found.damaged)

    def _set_aside(self, damaged: list[Path]) -> None:
        for path in damaged:
            kept = self._file.quarantine(path, self.quarantine_path)
            log.warning("%s is damaged; it is kept as %s", path, kept)

    @contextlib.contextmanager
    def _locked(self, *, timeout: float | None = None) -> Iterator[None]:
        """Hold the lock against threads of this process and against other processes."""
        seconds = self._lock_timeout() if timeout is None else timeout
        me = threading.get_ident()
        if self._holder == me:
            raise RuntimeError("cannot save a state from within update: it has the lock already")
        begun = time.monotonic()
        if not self._thread_lock.acquire(timeout=seconds):
            raise self._lock_error(seconds)
        try:
            self._make_directory()
            left = max(0.0, seconds - (time.monotonic() - begun))
            try:
                lock = filelock.FileLock(self.lock_path).acquire(
                    timeout=left, poll_interval=LOCK_POLL_SECONDS
                )
            except filelock.Timeout:
                raise self._lock_error(seconds) from None
            with lock:
                self._holder = me
                try:
                    yield
                finally:
                    self._holder = None
        finally:
            self._thread_lock.release()

    def _lock_timeout(self) -> float:
        """What was set for this store or its class; else what the module has now."""
        own = self.LOCK_TIMEOUT
        return LOCK_TIMEOUT if own == _LOCK_TIMEOUT_UNCHANGED else own

    def _make_directory(self) -> None:
        if not self._fs.exists(self.metrics_dir):
            self._fs.mkdir(self.metrics_dir)
            self._fs.sync_dir(self.metrics_dir.parent)

    def _lock_error(self, seconds: float) -> LockAcquisitionError:
        return LockAcquisitionError(
            f"cannot lock {self.lock_path} within {seconds:g} s: another thread or process "
            "holds it; try again"
        )

    def _size(self, path: Path) -> int | None:
        try:
            fd = self._fs.open_read(path)
        except OSError:
            return None
        try:
            return self._fs.size(fd)
        finally:
            self._fs.close(fd)


class _Found(msgspec.Struct):
    """What is on disk: the newest whole state, its owner, and what is damaged before it."""

    state: DashboardState
    server_id: str
    damaged: list[Path]


_OWNER = re.compile(rb'"tallymark":\{"format":\d+,"server_id":"([^"]+)"')


def _owner_of_damaged(body: bytes) -> str:
    """The daemon that wrote a file that does not verify any more, as far as can be seen."""
    found = _OWNER.search(body)
    return found.group(1).decode("ascii", "replace") if found else ""


def _decode(body: bytes) -> tuple[DashboardState, str]:
    """Raises ``NewerFormatError``, and ``DamagedError`` or ``ValueError`` for no state."""
    versions = project_file.versions_of(body)
    if versions is not None and versions.tallymark is not None:
        state, server_id = project_file.decode_owned(body)
        return snapshot(state), server_id
    project_file.refuse_newer(body)
    try:
        plain = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DamagedError(f"it is not JSON: {json_fault(error)}") from None
    return state_from(plain), ""
