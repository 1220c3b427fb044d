from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tallymark.errors import DamagedError, NewerFormatError
from tallymark.fs import OsFileSystem
from tallymarkd.storage import index as module
from tallymarkd.storage.index import KeyIndex, refuse_newer, version_mark

LARGEST, SMALLEST = 2**63 - 1, -(2**63)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite"


def test_keys_are_known_once_they_are_added(path: Path) -> None:
    index = KeyIndex.open(path)
    assert (index.known([1, 2]), len(index), index.through_lsn) == (set(), 0, 0)
    index.add([(1, 10), (LARGEST, 11), (SMALLEST, 12)], 15)
    assert index.known([SMALLEST, 1, 2, LARGEST]) == {SMALLEST, 1, LARGEST}
    assert (len(index), index.through_lsn) == (3, 15)
    index.close()


def test_the_index_is_there_after_it_was_closed(path: Path) -> None:
    first = KeyIndex.open(path)
    first.add([(5, 10)], 15)
    first.add([], 20)
    first.close()
    second = KeyIndex.open(path)
    assert (second.known([5, 6]), second.through_lsn) == ({5}, 20)
    second.close()


def test_two_connections_see_the_same(path: Path) -> None:
    reader, writer = KeyIndex.open(path), KeyIndex.open(path)
    writer.add([(5, 10)], 15)
    assert reader.known([5]) == {5}
    reader.close()
    writer.close()


def test_a_key_keeps_the_number_that_brought_it(path: Path) -> None:
    index = KeyIndex.open(path)
    index.add([(5, 10)], 15)
    index.add([(5, 20)], 25)
    assert len(index) == 1
    assert index.forget(20, 20) == 0
    assert index.forget(10, 10) == 1
    index.close()


def test_a_range_of_numbers_is_forgotten(path: Path) -> None:
    index = KeyIndex.open(path)
    index.add([(key, key * 10) for key in range(1, 6)], 60)
    assert index.forget(20, 40) == 3
    assert index.known(range(1, 6)) == {1, 5}
    assert index.through_lsn == 60
    index.close()


def test_keys_are_counted_by_their_numbers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RANGES_MAX", 2)
    index = KeyIndex.open(path)
    assert index.counts_in([(1, 9)]) == [0]
    index.add([(1, 10), (2, 20), (3, 20), (-4, 40)], 40)

    assert index.counts_in([]) == []
    assert index.counts_in([(1, 9), (10, 20), (20, 20), (21, 99), (41, 50)]) == [0, 3, 2, 1, 0]
    index.close()
    with pytest.raises(module.IndexUnreadableError, match="cannot read the index of keys: "):
        index.counts_in([(1, 9)])


def test_more_keys_than_fit_one_statement(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_KEYS_MAX", 3)
    index = KeyIndex.open(path)
    index.add([(key, 1) for key in range(10)], 1)
    assert index.known(range(5, 20)) == {5, 6, 7, 8, 9}
    index.close()


def test_keys_and_their_reach_come_together_or_not_at_all(path: Path) -> None:
    index = KeyIndex.open(path)
    index.add([(1, 10)], 10)

    def breaks() -> Iterator[tuple[int, int]]:
        yield 2, 20
        raise OSError("in the middle")

    with pytest.raises(OSError, match="in the middle"):
        index.add(breaks(), 30)
    assert (index.known([1, 2, 3]), index.through_lsn) == ({1}, 10)
    index.close()
    again = KeyIndex.open(path)
    assert (len(again), again.through_lsn) == (1, 10)
    again.add([(2, 20)], 30)
    assert again.through_lsn == 30
    again.close()


def test_alone_it_does_without_the_file_that_connections_share(path: Path) -> None:
    first = KeyIndex.open(path)
    first.add([(5, 10)], 15)
    first.close()

    index = KeyIndex.open(path, alone=True)

    assert index.known([5, 6]) == {5}
    index.add([(6, 16)], 16)
    assert index.known([5, 6]) == {5, 6}
    assert not path.with_name("index.sqlite-shm").exists()
    index.close()
    again = KeyIndex.open(path)
    assert (again.known([5, 6]), again.through_lsn, again.alone) == ({5, 6}, 16, False)
    again.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE])
def test_a_full_disk_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def no_room(_: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        raise error

    KeyIndex.open(path).close()
    monkeypatch.setattr(module, "_check_pages", no_room)
    with pytest.raises(module.IndexFullError, match="the disk is full"):
        KeyIndex.open(path)


class FullAtCommit:
    """A connection of which one COMMIT finds no room, as on a full disk."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._full = True

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "COMMIT" and self._full:
            self._full = False
            raise sqlite3.OperationalError("database or disk is full")
        return self._db.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def test_a_commit_that_finds_no_room_can_be_tried_again(path: Path) -> None:
    index = KeyIndex.open(path)
    index._db = cast("sqlite3.Connection", FullAtCommit(index._db))

    with pytest.raises(sqlite3.OperationalError, match="full"):
        index.add([(1, 10)], 15)

    assert (index.known([1]), index.through_lsn) == (set(), 0)
    other = KeyIndex.open(path)
    other.add([(2, 16)], 16)
    other.close()
    index.add([(1, 10)], 17)
    assert (index.known([1, 2]), index.through_lsn) == ({1, 2}, 17)
    index.close()


def test_an_index_that_cannot_be_read_any_more_is_told(path: Path) -> None:
    index = KeyIndex.open(path)
    index.close()
    with pytest.raises(module.IndexUnreadableError, match="cannot read the index of keys: "):
        index.known([1])


def test_a_file_that_is_no_database_is_damaged(path: Path) -> None:
    path.write_bytes(b"no database at all " * 100)
    with pytest.raises(DamagedError, match="cannot use"):
        KeyIndex.open(path)


def test_a_path_that_cannot_be_opened_is_told(path: Path) -> None:
    path.mkdir()
    with pytest.raises(DamagedError, match="cannot use"):
        KeyIndex.open(path)


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE other (x)",
        "PRAGMA user_version = 1",
        "CREATE TABLE keys (key, lsn); PRAGMA user_version = 1",
        (
            "CREATE TABLE keys (key, lsn); CREATE TABLE meta (name, value);"
            "INSERT INTO meta VALUES ('through_lsn', 'x'); PRAGMA user_version = 1"
        ),
        "PRAGMA user_version = -1",
    ],
)
def test_another_database_is_no_index(path: Path, script: str) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(script)
    db.close()
    with pytest.raises(DamagedError, match="cannot use"):
        KeyIndex.open(path)


def test_a_newer_index_is_refused_and_not_touched(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(
            f"CREATE TABLE x (y); PRAGMA application_id = {version_mark(2)};PRAGMA user_version = 2"
        )
    db.close()
    before = path.read_bytes()
    with pytest.raises(NewerFormatError, match="cannot open .* format 2; this version reads 1"):
        KeyIndex.open(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_newer_index_is_refused_with_its_log_as_it_is(path: Path) -> None:
    """A newer daemon was killed: opening the database would play its log."""
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(
        f"CREATE TABLE x (y); PRAGMA application_id = {version_mark(7)};"
        "PRAGMA user_version = 7; PRAGMA journal_mode = WAL; INSERT INTO x VALUES (1)"
    )
    for each in list(path.parent.iterdir()):
        each.with_name("killed-" + each.name).write_bytes(each.read_bytes())
    db.close()
    killed = path.with_name("killed-" + path.name)
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    with pytest.raises(NewerFormatError, match="format 7"):
        KeyIndex.open(killed)
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before
    assert f"{killed.name}-wal" in before


@pytest.mark.parametrize("version", [0, 2, 254, 2**24 + 1])
def test_a_version_that_its_mark_does_not_bear_out_is_damage(path: Path, version: int) -> None:
    KeyIndex.open(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    refuse_newer(path)
    with pytest.raises(DamagedError, match="another format"):
        KeyIndex.open(path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE keys SET key = key + 10 WHERE key = 3",
        "UPDATE keys SET key = key + 4294967296 WHERE key = 3",
        "UPDATE keys SET lsn = 31 WHERE key = 3",
        "UPDATE keys SET lsn = lsn + 1099511627776 WHERE key = 3",
        "DELETE FROM keys WHERE key = 3",
        "INSERT INTO keys VALUES (0, 0)",
        *(f"UPDATE meta SET value = value + 1 WHERE name = '{name}'"
          for name in ("through_lsn", "rows", "low", "high", "seal")),
        "UPDATE meta SET name = 'through' WHERE name = 'through_lsn'",
        "UPDATE meta SET value = 'x' WHERE name = 'through_lsn'",
        "DELETE FROM meta",
    ],
)  # fmt: skip
def test_what_has_become_another_number_is_found(path: Path, change: str) -> None:
    index = KeyIndex.open(path)
    index.add([(key, key * 10) for key in range(1, 6)], 60)
    index.close()
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()
    with pytest.raises(DamagedError, match="cannot use"):
        KeyIndex.open(path)


def test_the_sums_follow_every_change(path: Path) -> None:
    chance = random.Random(5)
    keys = [chance.randrange(SMALLEST, LARGEST) for _ in range(300)]
    index = KeyIndex.open(path)
    for turn in range(30):
        part = [(chance.choice(keys), chance.randrange(2**62)) for _ in range(20)]
        index.add([*part, *part[:3]], turn)
        index.forget(*sorted((chance.randrange(2**62), chance.randrange(2**62))))
        KeyIndex.open(path).close()
    assert index.through_lsn == 29
    index.close()


def test_a_second_connection_need_not_read_it_all(path: Path) -> None:
    first = KeyIndex.open(path)
    first.add([(1, 10)], 10)
    second = KeyIndex.open(path, check=False)
    assert (second.known([1]), second.through_lsn) == ({1}, 10)
    second.close()
    first.close()


def test_a_damaged_index_is_removed_and_made_again(path: Path) -> None:
    index = KeyIndex.open(path)
    index.add([(1, 10)], 10)
    # What is left of a daemon that was killed: the write-ahead log stays.
    names = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    index.close()
    for name, data in names.items():
        (path.parent / name).write_bytes(data)
    path.write_bytes(b"damaged")
    assert len(names) == 3
    KeyIndex.remove(OsFileSystem(), path)
    assert list(path.parent.iterdir()) == []
    again = KeyIndex.open(path)
    assert (len(again), again.through_lsn) == (0, 0)
    again.close()


def test_the_log_goes_before_the_database(path: Path) -> None:
    """A log without its database would be played into the next one of that name."""
    removed: list[str] = []

    class Noting(OsFileSystem):
        def unlink(self, path: Path) -> None:
            removed.append(path.name)

    KeyIndex.remove(Noting(), path)
    assert removed == ["index.sqlite-wal", "index.sqlite-shm", "index.sqlite"]
