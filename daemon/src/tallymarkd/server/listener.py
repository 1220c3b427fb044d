"""The daemon's own socket: bound by us, so that nobody's live socket is ever removed."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from tallymark.errors import PathError, StorageError
from tallymark.fs import FileSystem, is_socket
from tallymark.paths import check_socket_path, is_wrong

BACKLOG = 1024
PROBE_SECONDS = 1.0
SOCKET_UMASK = 0o177


@dataclass(slots=True)
class Listener:
    """A bound socket, and the lock that makes its path ours.

    Without a lock the path is a service manager's, which goes on listening there.
    """

    sock: socket.socket
    path: Path
    _fs: FileSystem
    _lock: int | None = None
    _inode: int = 0

    def close(self) -> None:
        """Stop listening; the name goes too, if it is ours still."""
        self.sock.close()
        if self._lock is None:
            return
        try:
            if os.lstat(self.path).st_ino == self._inode:
                self._fs.unlink(self.path)
        except FileNotFoundError:
            pass
        self._fs.close(self._lock)


def listen(fs: FileSystem, path: Path) -> Listener:
    """Bind ``path`` and listen. Raises ``PathError`` and ``StorageError``.

    A stale socket, one where nobody listens, is removed. Anything else that
    stands there is left alone and refused.
    """
    check_socket_path(path)
    try:
        fs.mkdir(path.parent)
        lock = fs.lock(path.with_name(path.name + ".lock"))
    except BlockingIOError:
        raise StorageError(f"cannot listen on {path}: another tallymarkd does") from None
    except OSError as error:
        kind = PathError if is_wrong(error) else StorageError
        raise kind(
            f"cannot listen on {path}: {error.strerror or error}; choose another path with --socket"
        ) from None
    try:
        _clear(fs, path)
        sock = _bind(path)
        return Listener(sock, path, fs, lock, os.lstat(path).st_ino)
    except BaseException:
        fs.close(lock)
        raise


def _clear(fs: FileSystem, path: Path) -> None:
    """Remove a stale socket; raises for anything else that is in the way."""
    if not fs.exists(path):
        return
    if not is_socket(path):
        raise PathError(
            f"cannot listen on {path}: something that is no socket stands there; "
            "move it away or choose another path with --socket"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            fs.unlink(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ETIMEDOUT) and not isinstance(
                error, TimeoutError
            ):
                raise StorageError(f"cannot listen on {path}: {error}") from error
    raise StorageError(f"cannot listen on {path}: another program is listening there")


def _bind(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A chmod after bind would leave a moment in which others can connect.
        before = os.umask(SOCKET_UMASK)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise StorageError(f"cannot listen on {path}: {error.strerror or error}") from error
    return sock
