"""Copies of files, durable and with a checksum; whole directories removed again."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from tallymark.errors import DamagedError
from tallymark.fs import READ_CHUNK_BYTES, FileSystem
from tallymarkd.core.backup_manifest import FileEntry

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
        raise _damaged(source, "it is missing") from error
    if found.size_bytes != entry.size_bytes:
        raise _damaged(source, f"it has {found.size_bytes} bytes instead of {entry.size_bytes}")
    if found.sha256 != entry.sha256:
        raise _damaged(source, "its checksum does not hold")


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
