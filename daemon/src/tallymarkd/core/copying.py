"""Copies of files, durable and with a checksum; whole directories removed again."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from tallymark.errors import DamagedError
from tallymark.fs import READ_CHUNK_BYTES, FileSystem
from tallymarkd.core.backup_manifest import FileEntry

MISSING = "it is missing"

_A_DIRECTORY = (errno.EISDIR, errno.EPERM)
"""What unlink says of a directory, on Linux and on macOS."""


def chunks_of(fs: FileSystem, path: Path) -> Iterator[bytes]:
    """The file's bytes as they are read. Raises ``OSError``."""
    fd = fs.open_read(path)
    try:
        offset = 0
        while data := fs.read(fd, READ_CHUNK_BYTES, offset):
            yield data
            offset += len(data)
    finally:
        fs.close(fd)


def write_copy(fs: FileSystem, root: Path, path: str, chunks: Iterable[bytes]) -> FileEntry:
    """Write ``root/path`` and sync it, its directory is there; gives what was written.

    The name is durable only when the directory is synced. Raises ``OSError``.
    """
    fd = fs.create(root / path)
    digest, size = sha256(), 0
    try:
        for chunk in chunks:
            fs.write(fd, chunk, size)
            digest.update(chunk)
            size += len(chunk)
        fs.sync(fd)
    finally:
        fs.close(fd)
    return FileEntry(path=path, size_bytes=size, sha256=digest.hexdigest())


def copy_back(fs: FileSystem, backup: Path, entry: FileEntry, target: Path) -> None:
    """Copy a file out of a backup and sync it, its directory is there.

    Raises ``DamagedError``, which names the file, and ``OSError``.
    """
    source = backup / entry.path
    try:
        found = write_copy(fs, target.parent, target.name, chunks_of(fs, source))
    except FileNotFoundError as error:
        if fs.exists(source):
            raise
        raise _damaged(source, MISSING) from error
    if fault := _fault(entry, found.size_bytes, found.sha256):
        raise _damaged(source, fault)


def fault_in_backup(fs: FileSystem, backup: Path, entry: FileEntry) -> str:
    """What is wrong with a file of a backup; empty when nothing is. Raises ``OSError``
    for one that is there and cannot be read."""
    source = backup / entry.path
    digest, size = sha256(), 0
    try:
        for chunk in chunks_of(fs, source):
            digest.update(chunk)
            size += len(chunk)
    except FileNotFoundError:
        return MISSING
    return _fault(entry, size, digest.hexdigest())


def _fault(entry: FileEntry, size_bytes: int, digest: str) -> str:
    if size_bytes != entry.size_bytes:
        return f"it has {size_bytes} bytes instead of {entry.size_bytes}"
    return "" if digest == entry.sha256 else "its checksum does not hold"


def _damaged(path: Path, what: str) -> DamagedError:
    return DamagedError(
        f"cannot restore {path}: {what}; the backup is damaged, nothing was changed: "
        "use another backup"
    )


def sync_tree(fs: FileSystem, directory: Path, below: set[Path]) -> None:
    """Make the names in ``directory`` and in those ``below`` it durable, deepest first."""
    for path in sorted({directory, *below}, key=lambda path: len(path.parts), reverse=True):
        fs.sync_dir(path)


def remove_tree(fs: FileSystem, path: Path) -> None:
    """Remove a name and, when it is a directory, all that is below it; no symlink is
    followed. One that is not there is no error. Raises ``OSError``."""
    try:
        fs.unlink(path)
    except OSError as error:
        if error.errno not in _A_DIRECTORY:
            raise
        for name in fs.names(path):
            remove_tree(fs, path / name)
        fs.rmdir(path)
