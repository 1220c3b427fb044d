"""The only place that opens, writes, syncs, renames and locks files.

Storage takes a ``FileSystem`` as an argument, so that a test can record what
is done, refuse it, or lose what was not synced. ``OsFileSystem`` is the real
one. Every method raises ``OSError`` as the system call does.

What is assumed of the system: ``sync_data`` and ``sync`` return only when the
file's bytes (and its length) have reached the device; a rename is atomic and,
like a creation, a link and an unlink, durable once its directory is synced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
READ_CHUNK_BYTES = 1024 * 1024


class Stamp(NamedTuple):
    """What tells a file, cheaply, from one that somebody else has put or changed there."""

    inode: int
    size: int
    changed_ns: int


class FileSystem(Protocol):
    """What storage needs of a file system. File descriptors are plain ints."""

    def open_read(self, path: Path) -> int:
        """Open an existing regular file for reading; never follows a symlink.

        Never blocks on anything else that has the name; that is an ``OSError``.
        """

    def open_write(self, path: Path) -> int:
        """Open an existing regular file for reading and writing."""

    def create(self, path: Path) -> int:
        """Create a new file (0600), open for reading and writing; it must not exist."""

    def close(self, fd: int) -> None:
        """Close a descriptor."""

    def read(self, fd: int, count: int, offset: int) -> bytes:
        """Up to ``count`` bytes at ``offset``; fewer only at the end of the file."""

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``; the bytes are not durable yet."""

    def allocate(self, fd: int, offset: int, length: int) -> None:
        """Reserve blocks, so that writing there cannot run out of space.

        ``length`` is at least 1; nothing of value may stand there: it may be
        filled with zeros. The file is at least ``offset + length`` bytes long then.
        """

    def truncate(self, fd: int, length: int) -> None:
        """Cut or extend the file to ``length`` bytes."""

    def size(self, fd: int) -> int:
        """Length of the file in bytes."""

    def sync_data(self, fd: int) -> None:
        """Make the file's bytes and length durable (fdatasync)."""

    def sync(self, fd: int) -> None:
        """Make the file's bytes and all its attributes durable (fsync)."""

    def sync_dir(self, path: Path) -> None:
        """Make the names in a directory durable."""

    def replace(self, source: Path, target: Path) -> None:
        """Rename over ``target``, atomically."""

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; ``target`` must not exist."""

    def unlink(self, path: Path) -> None:
        """Remove a name; one that is not there is no error."""

    def mkdir(self, path: Path) -> None:
        """Create a directory (0700) with its parents; one that is there is no error.

        The names that it creates are durable when it returns.
        """

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""

    def names(self, path: Path) -> list[str]:
        """Sorted names in a directory; empty when there is no such directory."""

    def exists(self, path: Path) -> bool:
        """Whether the name is there, without following a symlink."""

    def stamp(self, path: Path) -> Stamp | None:
        """What tells whether a file is still the same; None when the name is not there.

        Renaming it, or giving it a second name, does not change its stamp.
        """

    def free_bytes(self, path: Path) -> int:
        """Bytes that an unprivileged process can still allocate at ``path``."""

    def lock(self, path: Path) -> int:
        """Lock a file (created when absent) against other processes.

        Gives a descriptor that holds the lock until it is closed. A forked child
        has neither: there it must be forgotten, not closed. Raises
        ``BlockingIOError`` when another process holds it.
        """

    def lock_existing(self, path: Path) -> int:
        """As ``lock``, for a regular file that is there and is this user's.

        Raises ``FileNotFoundError`` when it is gone, also when that happened
        meanwhile, and ``PermissionError`` for another user's.
        """


class _Locks:
    """Descriptors that hold locks, so that a forked child closes them at once.

    A lock is held as long as any process has the descriptor: a child that had it
    would keep its dead parent's files locked. Closing it in the child releases
    nothing. The gate is held for one open or close, and by whoever forks, so that
    no descriptor is on its way into this list then.
    """

    def __init__(self) -> None:
        # A signal handler may fork while its own thread is in here.
        self._gate = threading.RLock()
        self._fds: set[int] = set()
        os.register_at_fork(
            before=self._gate.acquire,
            after_in_parent=self._gate.release,
            after_in_child=self._close_in_child,
        )

    def open(self, path: Path, flags: int) -> int:
        with self._gate:
            fd = os.open(path, flags, FILE_MODE)
            self._fds.add(fd)
            return fd

    def close(self, fd: int) -> None:
        if fd not in self._fds:
            os.close(fd)
            return
        with self._gate:
            self._fds.discard(fd)
            os.close(fd)

    def _close_in_child(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._gate.release()


locks = _Locks()


class OsFileSystem:
    """The real file system. Stateless, safe to use from any thread."""

    def open_read(self, path: Path) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))

    def open_write(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def create(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, FILE_MODE)

    def close(self, fd: int) -> None:
        locks.close(fd)

    def read(self, fd: int, count: int, offset: int) -> bytes:
        data = os.pread(fd, count, offset)
        if len(data) == count or not data:
            return data
        parts = [data]
        got = len(data)
        while got < count:
            data = os.pread(fd, count - got, offset + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        written = os.pwrite(fd, data, offset)
        if written == len(data):
            return
        view = memoryview(data)
        while written < len(view):
            step = os.pwrite(fd, view[written:], offset + written)
            if step == 0:
                raise OSError(errno.EIO, "write made no progress")
            written += step

    def allocate(self, fd: int, offset: int, length: int) -> None:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(fd, offset, length)
            except OSError as error:
                # Some file systems cannot, and not every libc writes zeros in their place.
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
            else:
                return
        zeros = bytes(min(length, READ_CHUNK_BYTES))
        for start in range(offset, offset + length, len(zeros)):
            self.write(fd, zeros[: offset + length - start], start)

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def sync_data(self, fd: int) -> None:
        _sync_data(fd)

    def sync(self, fd: int) -> None:
        _sync(fd)

    def sync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync(fd)
        finally:
            os.close(fd)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def mkdir(self, path: Path) -> None:
        # os.makedirs gives its mode to the last directory only.
        for each in (*reversed(path.parents), path):
            if not each.is_dir():
                with contextlib.suppress(FileExistsError):
                    os.mkdir(each, DIRECTORY_MODE)
                self.sync_dir(each.parent)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    def names(self, path: Path) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def exists(self, path: Path) -> bool:
        return os.path.lexists(path)

    def stamp(self, path: Path) -> Stamp | None:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
        return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)

    def free_bytes(self, path: Path) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def lock(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = locks.open(path, flags)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            locks.close(fd)
            raise
        return fd

    def lock_existing(self, path: Path) -> int:
        fd = locks.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            opened = os.fstat(fd)
            if not stat.S_ISREG(opened.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            if opened.st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it is another user's", str(path))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held the lock may have removed the name before letting go.
            if os.lstat(path).st_ino != opened.st_ino:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        except BaseException:
            locks.close(fd)
            raise
        return fd


def read_file(fs: FileSystem, path: Path) -> bytes:
    """The whole of a regular file. Raises ``OSError``, also for anything else."""
    fd = fs.open_read(path)
    try:
        return fs.read(fd, fs.size(fd), 0)
    finally:
        fs.close(fd)


def write_file(
    fs: FileSystem, path: Path, data: bytes, *, sync: Callable[[int], None] | None = None
) -> None:
    """Write a new file and make its bytes durable; its name is not yet.

    A file that is left over under this name is removed first.
    """
    fs.unlink(path)
    fd = fs.create(path)
    try:
        fs.write(fd, data, 0)
        (sync or fs.sync)(fd)
    finally:
        fs.close(fd)


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of ``FileSystem.lock``.

    Nothing is created or changed. Raises ``OSError`` when it cannot be seen.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def is_socket(path: Path) -> bool:
    """Whether ``path`` is a Unix socket."""
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


if sys.platform == "darwin":
    # fsync(2) on macOS leaves the bytes in the drive's cache; F_FULLFSYNC does not.
    def _sync(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

    _sync_data = _sync
else:
    # Called through the module on every use, so that a test can replace it.
    def _sync(fd: int) -> None:
        os.fsync(fd)

    def _sync_data(fd: int) -> None:
        os.fdatasync(fd)
