"""The keys seen so far: ``index.sqlite``, derived from the journal.

It may be deleted at any time while the daemon is stopped; recovery rebuilds it
from the journal. Keys are 64-bit hashes. ``through_lsn`` says how far into the
journal the index reaches, in the same transaction as the keys, so that it is
never believed beyond what it holds.

SQLite finds pages that hang together wrongly, and not a number that has become
another one. So ``meta`` keeps sums over all rows, and a seal over itself.

The version stands in the file's header twice: as ``user_version``, and in
``application_id``, so that a newer file is told from a damaged one.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from tallymark.errors import DamagedError, NewerFormatError, StorageError
from tallymark.fs import FileSystem

FORMAT = 1
QUERY_KEYS_MAX = 500
"""Keys asked for in one statement; SQLite allows 32,766 parameters."""

RANGES_MAX = 100
"""Ranges that are counted in one statement."""

_HALF = 2**32 - 1
_SUMS = """
SELECT count(*),
       coalesce(sum((key & 0xffffffff) + (lsn & 0xffffffff)), 0),
       coalesce(sum((key >> 32) + (lsn >> 32)), 0)
FROM keys
WHERE lsn BETWEEN ? AND ?
"""
"""How many rows, and the sums of their lower and upper halves: no change of one row
leaves them as they are."""

_ALL = (-(2**63), 2**63 - 1)
_META = ("through_lsn", "rows", "low", "high")


def version_mark(version: int) -> int:
    """What ``application_id`` is in a file of this version."""
    return zlib.crc32(b"tallymark index %d" % version) & 0x7FFFFFFF


def _seal(values: Sequence[int]) -> int:
    return zlib.crc32(repr(tuple(values)).encode())


def _schema() -> str:
    """The tables, empty: with sums of zero, sealed."""
    seal = _seal([0] * len(_META))
    return f"""
CREATE TABLE keys (key INTEGER PRIMARY KEY, lsn INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta
    VALUES ('through_lsn', 0), ('rows', 0), ('low', 0), ('high', 0), ('seal', {seal});
PRAGMA application_id = {version_mark(FORMAT)};
PRAGMA user_version = {FORMAT};
"""  # noqa: S608 - numbers of ours


def refuse_newer(path: Path) -> None:
    """Raises ``NewerFormatError`` for an index of a newer version; touches nothing.

    The file is read as it lies, without its log: opening that would change it.
    """
    try:
        db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error:
        return
    try:
        check_version(db)
    except NewerFormatError as error:
        raise NewerFormatError(f"cannot open {path}: {error}") from None
    except (sqlite3.Error, DamagedError):
        return
    finally:
        db.close()


def check_version(db: sqlite3.Connection) -> None:
    """Raises ``NewerFormatError``, and ``DamagedError`` for what is no index."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (mark,) = db.execute("PRAGMA application_id").fetchone()
    if version > FORMAT and mark == version_mark(version):
        raise NewerFormatError(f"it was written in format {version}; this version reads {FORMAT}")
    if (version, mark) != (FORMAT, version_mark(FORMAT)):
        raise DamagedError("it has another format")


def check_sums(db: sqlite3.Connection) -> None:
    """Raises ``DamagedError`` when a number in it has become another one."""
    if list(db.execute(_SUMS, _ALL).fetchone()) != _meta_of(db)[1:]:
        raise DamagedError("its sums are not those of its keys")


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
        self._lock = threading.Lock()
        self.alone = alone
        """Whether no other connection can be had."""
        self.through_lsn = self._meta()[0]

    @classmethod
    def open(cls, path: Path, *, check: bool = True, alone: bool = False) -> KeyIndex:
        """Open or create the index.

        Raises ``DamagedError``, ``NewerFormatError``, and ``IndexFullError`` where
        there is no room for the file that connections share; ``alone`` does without it.
        ``check`` reads it whole; for a second connection that is not needed.
        """
        refuse_newer(path)
        try:
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise DamagedError(f"cannot use {path} as an index: {error}") from error
        try:
            if alone:  # said before anything is read, or the shared file is asked for
                db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            # A lost transaction is rebuilt from the journal; a torn one never shows.
            db.execute("PRAGMA synchronous = NORMAL")
            if _is_empty(db):
                db.executescript(f"BEGIN; {_schema()} COMMIT;")
            check_version(db)
            if check:
                _check_pages(db)
                check_sums(db)
            return cls(db, alone=alone)
        # A damaged cell may hold a text where a number belongs.
        except (sqlite3.Error, DamagedError, TypeError, ValueError) as error:
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

    def _meta(self) -> list[int]:
        return _meta_of(self._db)

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM keys").fetchone()[0])

    def known(self, keys: Sequence[int]) -> set[int]:
        """Those of ``keys`` that stand in the index. Raises ``IndexUnreadableError``."""
        try:
            with self._lock:
                return self._known(keys)
        except sqlite3.Error as error:
            raise IndexUnreadableError(f"cannot read the index of keys: {error}") from error

    def _known(self, keys: Sequence[int]) -> set[int]:
        found: set[int] = set()
        for at in range(0, len(keys), QUERY_KEYS_MAX):
            part = keys[at : at + QUERY_KEYS_MAX]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(f"SELECT key FROM keys WHERE key IN ({marks})", part)  # noqa: S608 - only question marks
            found.update(row[0] for row in rows)
        return found

    def counts_in(self, ranges: Sequence[tuple[int, int]]) -> list[int]:
        """How many keys stand under the numbers of each range, both ends included.

        Reads the index once for many of them. Raises ``IndexUnreadableError``.
        """
        found: list[int] = []
        try:
            with self._lock:
                for at in range(0, len(ranges), RANGES_MAX):
                    part = ranges[at : at + RANGES_MAX]
                    sums = ", ".join(["total(lsn BETWEEN ? AND ?)"] * len(part))
                    bounds = [bound for each in part for bound in each]
                    row = self._db.execute(f"SELECT {sums} FROM keys", bounds).fetchone()  # noqa: S608 - only question marks
                    found += map(int, row)
        except sqlite3.Error as error:
            raise IndexUnreadableError(f"cannot read the index of keys: {error}") from error
        return found

    def add(self, keys: Iterable[tuple[int, int]], through_lsn: int) -> None:
        """Add (key, lsn) pairs: everything through ``through_lsn`` is in the index now."""
        with self._transaction():
            fresh: dict[int, int] = {}
            for key, lsn in keys:
                fresh.setdefault(key, lsn)
            for key in self._known(list(fresh)):
                del fresh[key]
            self._db.executemany("INSERT INTO keys VALUES (?, ?)", fresh.items())
            low = sum([(key & _HALF) + (lsn & _HALF) for key, lsn in fresh.items()])
            high = sum([(key >> 32) + (lsn >> 32) for key, lsn in fresh.items()])
            self._move(len(fresh), low, high, through_lsn)
        self.through_lsn = through_lsn

    def forget(self, from_lsn: int, through_lsn: int) -> int:
        """Remove the keys of a range of numbers; gives how many there were."""
        bounds = (from_lsn, through_lsn)
        with self._transaction():
            rows, low, high = self._db.execute(_SUMS, bounds).fetchone()
            self._db.execute("DELETE FROM keys WHERE lsn BETWEEN ? AND ?", bounds)
            self._move(-rows, -low, -high)
        return int(rows)

    def _move(self, rows: int, low: int, high: int, through_lsn: int | None = None) -> None:
        """The sums after a change, sealed."""
        through, *sums = self._meta()
        values = [through if through_lsn is None else through_lsn]
        values += [a + b for a, b in zip(sums, (rows, low, high), strict=True)]
        self._db.executemany(
            "REPLACE INTO meta VALUES (?, ?)",
            zip((*_META, "seal"), (*values, _seal(values)), strict=True),
        )

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


def _is_empty(db: sqlite3.Connection) -> bool:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return version == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone()


def _meta_of(db: sqlite3.Connection) -> list[int]:
    """Reach and sums. Raises ``DamagedError`` when the seal does not hold."""
    found = dict(db.execute("SELECT name, value FROM meta").fetchall())
    values: list[int] = [found.get(name, 0) for name in _META]
    if found.get("seal") != _seal(values):
        raise DamagedError("its seal does not hold")
    return values


def _check_pages(db: sqlite3.Connection) -> None:
    """Raises ``DamagedError`` for what SQLite finds, ``sqlite3.Error`` if it cannot be
    written. With the sums, two seconds for 5 million keys."""
    db.executescript("BEGIN IMMEDIATE; UPDATE meta SET value = value; ROLLBACK;")
    (answer,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise DamagedError(str(answer))
