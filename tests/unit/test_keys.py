from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tallymarkd.core.keys import Keys, key_hash, pack_keys, unpack_keys
from tallymarkd.storage.index import IndexUnreadableError, KeyIndex
from tests.daemon_parts import open_keys


class BrokenIndex(KeyIndex):
    """Cannot be written to."""

    def add(self, keys: object, through_lsn: int) -> None:
        raise sqlite3.OperationalError("database or disk is full")


def indexed(tmp_path: Path) -> KeyIndex:
    return KeyIndex.open(tmp_path / "index.sqlite")


def test_a_hash_is_the_same_everywhere_and_fits_64_bits() -> None:
    # Part of the format: keys in the journal are compared with it for ever.
    assert key_hash("spotter", "anthropic:msg_1:req_1") == -6376095025443766081


def test_projects_have_keys_of_their_own() -> None:
    assert key_hash("spotter", "k") != key_hash("other", "k")
    assert key_hash("spotter", "k") != key_hash("spotter", "l")


def test_project_and_key_do_not_run_into_each_other() -> None:
    assert key_hash("a\0b", "c") != key_hash("a", "b\0c")


def test_hashes_are_packed_and_unpacked() -> None:
    keys = [0, 1, -1, 2**63 - 1, -(2**63), key_hash("spotter", "k")]

    data = pack_keys(keys)

    assert len(data) == 8 * len(keys)
    assert unpack_keys(data) == keys
    assert unpack_keys(b"") == []


def test_a_key_is_known_from_its_admission_on(tmp_path: Path) -> None:
    keys = open_keys(tmp_path)
    assert keys.known([1, 2]) == set()

    keys.admit([1])

    assert keys.known([1, 2]) == {1}
    keys.settle([1], 40)
    assert keys.known([1, 2]) == {1}


def test_withdrawn_keys_are_new_again_and_durable_ones_are_not(tmp_path: Path) -> None:
    keys = open_keys(tmp_path)
    keys.admit([1, 2, 3])
    keys.settle([2], 40)

    keys.withdraw_all()

    assert keys.known([1, 2, 3]) == {2}


def test_only_durable_keys_are_written(tmp_path: Path) -> None:
    keys = open_keys(tmp_path)
    keys.admit([1, 2, 3])
    keys.settle([1, 2], 40)

    assert keys.begin_write() == 2
    keys.write(41)
    keys.end_write()

    index = indexed(tmp_path)
    assert index.known([1, 2, 3]) == {1, 2}
    assert index.through_lsn == 41
    assert keys.known([1, 2, 3]) == {1, 2, 3}


def test_keys_are_known_while_they_are_written(tmp_path: Path) -> None:
    keys = open_keys(tmp_path)
    keys.admit([1, 2])
    keys.settle([1], 40)

    keys.begin_write()

    assert keys.known([1, 2, 3]) == {1, 2}


def test_a_key_withdrawn_during_a_write_is_new_again(tmp_path: Path) -> None:
    keys = open_keys(tmp_path)
    keys.admit([1, 2])
    keys.settle([1], 40)
    keys.begin_write()

    keys.withdraw_all()

    assert keys.known([1, 2]) == {1}


def test_what_could_not_be_written_is_written_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    broken = BrokenIndex.open(path)
    keys = Keys(KeyIndex.open(path), broken)
    keys.admit([1, 2])
    keys.settle([1], 40)
    keys.begin_write()
    with pytest.raises(sqlite3.Error):
        keys.write(40)
    assert keys.known([1]) == {1}
    broken.add = KeyIndex.open(path).add  # type: ignore[method-assign]  # the disk has room again

    keys.settle([2], 41)
    assert keys.begin_write() == 2
    keys.write(41)
    keys.end_write()

    assert indexed(tmp_path).known([1, 2]) == {1, 2}


def test_keys_of_retired_history_are_forgotten(tmp_path: Path) -> None:
    keys = open_keys(tmp_path)
    keys.settle([1], 40)
    keys.settle([2], 41)
    keys.begin_write()
    keys.write(41)
    keys.end_write()

    assert keys.forget_before(41) == 1

    assert keys.known([1, 2]) == {2}


def test_keys_stand_in_the_index_after_a_close(tmp_path: Path) -> None:
    keys = open_keys(tmp_path)
    keys.settle([7], 40)
    keys.begin_write()
    keys.write(40)
    keys.end_write()
    keys.close()

    assert open_keys(tmp_path).known([7, 8]) == {7}
    with pytest.raises(IndexUnreadableError):
        keys.known([7])
