"""The keys seen so far: ``index.sqlite``, derived from the journal.

It may be deleted at any time while the daemon is stopped; recovery rebuilds it
from the journal. Keys are 64-bit hashes. ``through_lsn`` says how far into the
journal the index reaches, in the same transaction as the keys, so that it is
never believed beyond what it holds.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tallymark.errors import DamagedError, NewerFormatError, StorageError
from tallymark.fs import FileSystem

FORMAT = 1
QUERY_KEYS_MAX = 500
"""Keys asked for in one statement; SQLite allows 32,766 parameters."""

_SCHEMA = """
CREATE TABLE keys (key INTEGER PRIMARY KEY, lsn INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""A full disk, under the database and under the file that its connections share."""


class IndexFullError(StorageError):
    """The disk has no room for the index to be opened; nothing is wrong with it."""


class IndexUnreadableError(StorageError):
    """The index cannot be read any more: nobody can tell what is a duplicate."""


class KeyIndex:
    """Keys with the LSN that brought them. One thread at a time is let in.

    ``open`` raises ``DamagedError`` for a file that is no index of this format;
    the caller deletes it, with ``remove``, and rebuilds. What SQLite meets later
    comes as ``sqlite3.Error`` when writing, and as ``IndexUnreadableError`` when reading.
    """

    def __init__(self, connection: sqlite3.Connection, *, alone: bool = False) -> None:
        self._db = connection
        self._lock = threading.RLock()
        self.alone = alone
        """Whether no other connection can be had."""
        self.through_lsn = self._meta("through_lsn")

    @classmethod
    def open(cls, path: Path, *, alone: bool = False) -> KeyIndex:
        """Open or create the index.

        Raises ``DamagedError``, ``NewerFormatError``, and ``IndexFullError`` where
        there is no room for the file that connections share; ``alone`` does without it.
        """
        try:
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise DamagedError(f"cannot use {path} as an index: {error}") from error
        try:
            if alone:  # said before anything is read, or the shared file is asked for
                db.execute("PRAGMA locking_mode = EXCLUSIVE")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > FORMAT:
                raise NewerFormatError(
                    f"cannot open {path}: it was written in format {version}; "
                    f"this version reads {FORMAT}"
                )
            db.execute("PRAGMA journal_mode = WAL")
            # A lost transaction is rebuilt from the journal; a torn one never shows.
            db.execute("PRAGMA synchronous = NORMAL")
            if version == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
            elif version != FORMAT or not _sound(db):
                raise DamagedError(f"cannot use {path} as an index: it has another format")
            return cls(db, alone=alone)
        # A damaged cell may hold a text where a number belongs.
        except (sqlite3.Error, TypeError, ValueError) as error:
            db.close()
            if getattr(error, "sqlite_errorcode", None) in _NO_ROOM:
                raise IndexFullError(f"cannot open {path}: the disk is full") from error
            raise DamagedError(f"cannot use {path} as an index: {error}") from error
        except BaseException:
            db.close()
            raise

    @staticmethod
    def remove(fs: FileSystem, path: Path) -> None:
        """Delete the index, which must not be open."""
        for suffix in ("-wal", "-shm", ""):
            fs.unlink(path.with_name(path.name + suffix))

    def _meta(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM keys").fetchone()[0])

    def known(self, keys: Sequence[int]) -> set[int]:
        """Those of ``keys`` that stand in the index. Raises ``IndexUnreadableError``."""
        found: set[int] = set()
        with self._lock:
            for at in range(0, len(keys), QUERY_KEYS_MAX):
                found.update(self._query(keys[at : at + QUERY_KEYS_MAX]))
        return found

    def _query(self, keys: Sequence[int]) -> list[int]:
        marks = ",".join("?" * len(keys))
        try:
            rows = self._db.execute(f"SELECT key FROM keys WHERE key IN ({marks})", keys)  # noqa: S608 - only question marks
            return [row[0] for row in rows]
        except sqlite3.Error as error:
            raise IndexUnreadableError(f"cannot read the index of keys: {error}") from error

    def add(self, keys: Iterable[tuple[int, int]], through_lsn: int) -> None:
        """Add (key, lsn) pairs: everything through ``through_lsn`` is in the index now."""
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO keys VALUES (?, ?)", keys)
            self._db.execute("REPLACE INTO meta VALUES ('through_lsn', ?)", (through_lsn,))
        self.through_lsn = through_lsn

    def forget(self, from_lsn: int, through_lsn: int) -> int:
        """Remove the keys of a range of numbers; gives how many there were."""
        with self._transaction():
            return self._db.execute(
                "DELETE FROM keys WHERE lsn BETWEEN ? AND ?", (from_lsn, through_lsn)
            ).rowcount

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # On a full disk it is the commit that fails, and SQLite may have rolled back.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _sound(db: sqlite3.Connection) -> bool:
    """Whether SQLite finds nothing wrong with any page; half a second for 5 million keys."""
    (answer,) = db.execute("PRAGMA quick_check(1)").fetchone()
    return bool(answer == "ok")
