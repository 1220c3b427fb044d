from __future__ import annotations

import errno
import os
from hashlib import sha256
from pathlib import Path

import pytest

from tallymark.errors import DamagedError
from tallymark.fs import READ_CHUNK_BYTES, OsFileSystem
from tallymarkd.core.backup_manifest import FileEntry
from tallymarkd.core.copying import chunks_of, copy_back, remove_tree, sync_tree, write_copy
from tests.faulty_fs import FaultyFs

BODY = b"0123456789abcdef" * (READ_CHUNK_BYTES // 16) + b"and some more"


@pytest.fixture
def fs() -> FaultyFs:
    return FaultyFs()


def test_a_copy_is_the_same_private_and_synced(fs: FaultyFs, tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(BODY)

    entry = write_copy(fs, tmp_path, "to", chunks_of(fs, tmp_path / "from"))

    assert (tmp_path / "to").read_bytes() == BODY
    assert entry == FileEntry(path="to", size_bytes=len(BODY), sha256=sha256(BODY).hexdigest())
    assert (tmp_path / "to").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "to").stat().st_nlink == 1
    assert fs.kinds() == ["create", "write", "write", "sync"]


def test_an_empty_file_is_copied(fs: FaultyFs, tmp_path: Path) -> None:
    (tmp_path / "from").touch()

    assert write_copy(fs, tmp_path, "to", chunks_of(fs, tmp_path / "from")).size_bytes == 0
    assert (tmp_path / "to").read_bytes() == b""


def entry_of(body: bytes) -> FileEntry:
    return FileEntry(path="state/a", size_bytes=len(body), sha256=sha256(body).hexdigest())


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (b"hellO", "its checksum does not hold"),
        (b"hell", "it has 4 bytes instead of 5"),
        (None, "it is missing"),
    ],
)
def test_what_is_not_as_the_manifest_says_is_named(
    fs: FaultyFs, tmp_path: Path, found: bytes | None, told: str
) -> None:
    path = tmp_path / "state" / "a"
    path.parent.mkdir()
    if found is not None:
        path.write_bytes(found)

    with pytest.raises(DamagedError, match=f"cannot restore {path}: {told}"):
        copy_back(fs, tmp_path, entry_of(b"hello"), tmp_path / "to")


def test_what_is_as_the_manifest_says_is_copied(fs: FaultyFs, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a").write_bytes(b"hello")

    copy_back(fs, tmp_path, entry_of(b"hello"), tmp_path / "to")

    assert (tmp_path / "to").read_bytes() == b"hello"


def test_a_directory_in_which_nothing_can_be_made_is_no_damage(
    fs: FaultyFs, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a").write_bytes(b"hello")

    with pytest.raises(FileNotFoundError):
        copy_back(fs, tmp_path, entry_of(b"hello"), tmp_path / "nowhere" / "to")


def test_directories_are_synced_deepest_first(fs: FaultyFs, tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)

    sync_tree(fs, tmp_path, {deep, tmp_path / "a"})

    synced = [each.path for each in fs.operations if each.kind == "sync_dir"]
    assert synced == [deep, tmp_path / "a", tmp_path]


def test_a_tree_is_removed_and_no_symlink_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    deep = tmp_path / "tree" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    os.symlink(outside, deep / "link")

    remove_tree(OsFileSystem(), tmp_path / "tree")
    remove_tree(OsFileSystem(), tmp_path / "tree")

    assert not (tmp_path / "tree").exists()
    assert (outside / "kept").exists()


def test_what_cannot_be_removed_is_an_error(fs: FaultyFs, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fs.fail("unlink", errno.EROFS)

    with pytest.raises(OSError, match="Read-only"):
        remove_tree(fs, tmp_path / "file")
