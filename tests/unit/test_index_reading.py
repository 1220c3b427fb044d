from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tallymark.errors import DamagedError, NewerFormatError
from tallymark.fs import OsFileSystem
from tallymarkd.storage.index import KeyIndex, version_mark
from tallymarkd.storage.index_reading import IndexReading, with_wal
from tests.journals import flipped


def copied(path: Path, to: Path) -> Path:
    """The index as a daemon that is killed now would leave it."""
    to.mkdir()
    for suffix in ("", "-wal"):
        (to / f"i{suffix}").write_bytes(path.with_name(path.name + suffix).read_bytes())
    return to / "i"


def read(path: Path) -> dict[int, int]:
    index = IndexReading.open(OsFileSystem(), path)
    try:
        return index.lsn_of(list(range(-5, 5000)))
    finally:
        index.close()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Three transactions, all of them in the WAL."""
    index = KeyIndex.open(tmp_path / "index.sqlite")
    for first in (0, 1000, 2000):
        index.add([(first + number, first + 1) for number in range(1000)], first + 1000)
    found = copied(tmp_path / "index.sqlite", tmp_path / "killed")
    index.close()
    return found


def test_what_stands_in_the_wal_is_read(written: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in written.parent.iterdir()}

    index = IndexReading.open(OsFileSystem(), written)

    assert (index.keys, index.through_lsn) == (3000, 3000)
    assert index.lsn_of([1, 1500, 4000]) == {1: 1, 1500: 1001}
    assert index.count_between(1001, 2000) == 1000
    index.close()
    assert {path.name: path.stat().st_mtime_ns for path in written.parent.iterdir()} == before


def test_it_reads_what_sqlite_reads_wherever_the_wal_is_cut(written: Path, tmp_path: Path) -> None:
    wal_path = written.with_name("i-wal")
    wal = wal_path.read_bytes()
    seen = set()
    for number, end in enumerate([0, 10, 32, 33, *range(56, len(wal), 4120 * 5), len(wal) - 1]):
        wal_path.write_bytes(wal[:end])
        try:
            ours = read(written)
        except DamagedError:
            ours = {}
        place = tmp_path / f"sqlite-{number}"
        db = sqlite3.connect(copied(written, place))
        try:
            theirs = dict(db.execute("SELECT key, lsn FROM keys").fetchall())
        except sqlite3.Error:
            theirs = {}
        db.close()
        assert ours == theirs
        seen.add(len(ours))
    assert seen == {0, 1000, 2000}


def test_a_damaged_frame_ends_it_as_in_sqlite(written: Path, tmp_path: Path) -> None:
    wal_path = written.with_name("i-wal")
    wal = wal_path.read_bytes()
    wal_path.write_bytes(flipped(wal, len(wal) - 3000))
    ours = read(written)
    db = sqlite3.connect(copied(written, tmp_path / "sqlite"))
    theirs = dict(db.execute("SELECT key, lsn FROM keys").fetchall())
    db.close()
    assert ours == theirs
    assert len(ours) == 2000


def test_without_a_wal_it_is_read_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "odd ?#%name"
    KeyIndex.open(path).close()
    index = KeyIndex.open(path)
    index.add([(7, 3)], 9)
    index.close()
    names = sorted(tmp_path.iterdir())

    assert read(path) == {7: 3}
    assert sorted(tmp_path.iterdir()) == names


def test_what_is_no_index_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "i"
    for body in (b"", b"not a database at all" * 300, b"SQLite format 3\0" + b"\xff" * 4096):
        path.write_bytes(body)
        with pytest.raises(DamagedError):
            IndexReading.open(OsFileSystem(), path)
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()
    with pytest.raises(DamagedError, match="another format"):
        IndexReading.open(OsFileSystem(), path)


def test_a_newer_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "i"
    KeyIndex.open(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.execute(f"PRAGMA application_id = {version_mark(2)}")
    db.close()
    with pytest.raises(NewerFormatError):
        IndexReading.open(OsFileSystem(), path)


def test_no_wal_is_no_change_but_for_the_kind(written: Path) -> None:
    body = written.read_bytes()
    for wal in (b"", b"x" * 31, bytes(32), b"\x37\x7f\x06\x82" + bytes(60)):
        assert with_wal(body, wal)[20:] == body[20:]
