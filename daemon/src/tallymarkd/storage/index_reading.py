"""``index.sqlite`` as it lies on disk, read without changing anything.

SQLite itself would make ``-wal`` and ``-shm`` files, or put what is in the WAL
into the database. So a database without a WAL is opened as one that cannot
change, and one with a WAL is put together in memory, as SQLite does it: frame
after frame as long as the checksums hold, up to the last commit.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from tallymark.errors import DamagedError
from tallymark.fs import FileSystem, read_file
from tallymarkd.storage.index import QUERY_KEYS_MAX, check_sums, check_version

_wal_header = struct.Struct(">8I")
_frame_header = struct.Struct(">6I")
_MAGIC_LITTLE, _MAGIC_BIG = 0x377F0682, 0x377F0683
_WRITE_VERSION_AT = 18
"""This byte and the next say how a database is written: 2 with a WAL, 1 without."""


class IndexReading:
    """The keys of an index. Raises ``DamagedError`` wherever it is no whole one."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._check()
        (self.through_lsn,) = self._row("SELECT value FROM meta WHERE name = 'through_lsn'") or (0,)
        (self.keys,) = self._row("SELECT count(*) FROM keys") or (0,)

    @classmethod
    def open(cls, fs: FileSystem, path: Path) -> IndexReading:
        """Raises ``DamagedError``, ``NewerFormatError``, and ``OSError``."""
        db = _connect(fs, path)
        try:
            return cls(db)
        except sqlite3.Error as error:
            db.close()
            raise DamagedError(str(error)) from error
        except BaseException:
            db.close()
            raise

    def _row(self, statement: str, *values: int) -> tuple[int, ...] | None:
        try:
            row = self._db.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise DamagedError(str(error)) from error
        return None if row is None else tuple(int(value) for value in row)

    def _check(self) -> None:
        check_version(self._db)
        (answer,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        if answer != "ok":
            raise DamagedError(str(answer).replace("\n", " "))
        check_sums(self._db)

    def lsn_of(self, keys: Sequence[int]) -> dict[int, int]:
        """The number under which each of the keys stands that are there."""
        found: dict[int, int] = {}
        for at in range(0, len(keys), QUERY_KEYS_MAX):
            part = keys[at : at + QUERY_KEYS_MAX]
            marks = ",".join("?" * len(part))
            statement = f"SELECT key, lsn FROM keys WHERE key IN ({marks})"  # noqa: S608 - only question marks
            found.update(self._rows(statement, part))
        return found

    def _rows(self, statement: str, values: Sequence[int]) -> Iterable[tuple[int, int]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise DamagedError(str(error)) from error

    def count_between(self, from_lsn: int, through_lsn: int) -> int:
        """How many keys came with these numbers."""
        row = self._row(
            "SELECT count(*) FROM keys WHERE lsn BETWEEN ? AND ?", from_lsn, through_lsn
        )
        return row[0] if row else 0

    def close(self) -> None:
        """Let go of it."""
        self._db.close()


def _connect(fs: FileSystem, path: Path) -> sqlite3.Connection:
    wal_path = path.with_name(f"{path.name}-wal")
    wal = read_file(fs, wal_path) if fs.exists(wal_path) else b""
    try:
        if not wal:
            name = quote(str(path))
            return sqlite3.connect(f"file:{name}?mode=ro&immutable=1", uri=True)
        body = with_wal(read_file(fs, path), wal)
        db = sqlite3.connect(":memory:")
        db.deserialize(body)
    except sqlite3.Error as error:
        raise DamagedError(str(error)) from error
    return db


def with_wal(body: bytes, wal: bytes) -> bytes:
    """The database as SQLite would read it together with its WAL."""
    whole = bytearray(body)
    if len(wal) >= _wal_header.size:
        _lay_over(whole, wal)
    if len(whole) > _WRITE_VERSION_AT + 1:
        whole[_WRITE_VERSION_AT : _WRITE_VERSION_AT + 2] = b"\x01\x01"
    return bytes(whole)


def _lay_over(whole: bytearray, wal: bytes) -> None:
    magic, _, page_bytes, _, *salts, first, second = _wal_header.unpack_from(wal)
    if magic not in (_MAGIC_LITTLE, _MAGIC_BIG) or not 512 <= page_bytes <= 65536:
        return
    order = "<" if magic == _MAGIC_LITTLE else ">"
    sums = _checksum(wal[:24], order, (0, 0))
    if sums != (first, second):
        return
    pages: dict[int, int] = {}
    at, step = _wal_header.size, _frame_header.size + page_bytes
    while at + step <= len(wal):
        number, pages_in_all, *frame_salts, first, second = _frame_header.unpack_from(wal, at)
        start = at + _frame_header.size
        sums = _checksum(wal[at : at + 8] + wal[start : start + page_bytes], order, sums)
        if frame_salts != salts or sums != (first, second) or not number:
            return
        pages[number] = start
        if pages_in_all:
            _commit(whole, wal, pages, page_bytes, pages_in_all * page_bytes)
            pages = {}
        at += step


def _commit(
    whole: bytearray, wal: bytes, pages: dict[int, int], page_bytes: int, size: int
) -> None:
    del whole[size:]
    whole.extend(bytes(size - len(whole)))
    for number, start in pages.items():
        place = (number - 1) * page_bytes
        if place + page_bytes <= size:
            whole[place : place + page_bytes] = wal[start : start + page_bytes]


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's checksum of a WAL, begun with the sums so far."""
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
