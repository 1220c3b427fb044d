"""One non-blocking connection."""

from __future__ import annotations

import errno
import socket
import sys
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from tallymark.errors import ConnectError, PathError
from tallymark.paths import check_socket_path
from tallymark.transport.unreachable import connect_failed, join

RECEIVE_BYTES: Final = 64 * 1024

SEND_BUFFER_BYTES: Final = 1024 * 1024
"""What the system may hold for the daemon (it may allow less): whoever sends comes by
seldom where the threads of an agent compute, and the daemon is to have work meanwhile."""

PIECES_MAX: Final = 64
"""Most pieces in one system call; each system has a limit, none lower."""

PASSING: Final = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What says nothing about whether a daemon is there."""

# An agent may have given SIGPIPE its default back: a daemon's end must not kill it.
SEND_FLAGS: Final[int] = getattr(socket, "MSG_NOSIGNAL", 0)
_SO_NOSIGPIPE_DARWIN: Final = 0x1022


class Transport:
    """One connection. Not thread-safe; ``close`` may be called in a forked child."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.path = path
        self._socket = sock
        self._unsent: deque[memoryview] = deque()
        self._cut = False

    @classmethod
    def connect(cls, paths: Sequence[Path]) -> Transport:
        """Connect to the first socket somebody listens at. Never waits.

        A daemon that is only busy, or a process without descriptors, is a failure: who
        went on to the next socket would stay with another daemon. Raises ``ConnectError``;
        when there are several paths it tells of each.
        A connection alone means nothing: a stopped daemon has it too.
        """
        failures: list[ConnectError] = []
        for path in paths:
            try:
                return cls(_open(path), path)
            except ConnectError as failure:
                cause = failure.__cause__
                if isinstance(cause, OSError) and cause.errno in PASSING:
                    raise
                failures.append(failure)
        raise join(failures)

    def fileno(self) -> int:
        """The descriptor, or -1 when closed."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether the system has not taken all that was given to ``send``."""
        return bool(self._unsent)

    def send(self, *pieces: bytes) -> None:
        """Give bytes to the system; what it does not take now is kept for ``resume``.

        Raises ``OSError`` when the connection is gone.
        """
        sent = 0 if self._unsent else self._try(pieces[:PIECES_MAX])
        if sent < sum(map(len, pieces)):
            self._unsent.extend(map(memoryview, pieces))
            self._forget(sent)

    def resume(self) -> None:
        """Go on with what was kept. Raises ``OSError`` when the connection is gone."""
        while self._unsent:
            sent = self._try(list(islice(self._unsent, PIECES_MAX)))
            if not sent:
                return
            self._forget(sent)

    def _forget(self, sent: int) -> None:
        """So many bytes are with the system."""
        while sent:
            first = self._unsent.popleft()
            self._cut = sent < len(first)
            if self._cut:
                self._unsent.appendleft(first[sent:])
                return
            sent -= len(first)

    def retract(self) -> None:
        """Forget what was kept, but for the rest of a piece that has begun."""
        while len(self._unsent) > (1 if self._cut else 0):
            self._unsent.pop()

    def _try(self, pieces: Sequence[bytes | memoryview]) -> int:
        try:
            return self._socket.sendmsg(pieces, (), SEND_FLAGS)
        except (BlockingIOError, InterruptedError):
            return 0

    def receive(self) -> bytes | None:
        """What has come: None for nothing yet, empty for the end.

        Raises ``OSError`` when the connection is gone.
        """
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return None

    def close(self) -> None:
        """Close this process's descriptor. Nothing is sent."""
        self._unsent.clear()
        self._socket.close()


def _open(path: Path) -> socket.socket:
    try:
        check_socket_path(path)
    except PathError as error:
        raise ConnectError(f"cannot reach tallymarkd: {error}") from None
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # No descriptors left, for the moment: as little final as a daemon that is away.
    except OSError as error:
        raise connect_failed(path, error) from error
    try:
        sock.setblocking(False)
        if sys.platform == "darwin":
            sock.setsockopt(socket.SOL_SOCKET, _SO_NOSIGPIPE_DARWIN, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        raise connect_failed(path, error) from error
    return sock
