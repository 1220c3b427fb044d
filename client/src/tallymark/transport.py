"""The only place of the client with a socket.

``Transport`` is one non-blocking connection for the sender thread, ``Poller``
what that thread waits with, and ``ask`` a short conversation of its own for
the thread that calls it.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tallymark.errors import (
    ConnectError,
    DeliveryError,
    PathError,
    ProtocolError,
    RefusedError,
    ReplyTimeout,
)
from tallymark.fs import is_socket
from tallymark.paths import check_socket_path
from tallymark.protocol.connection import ClientConnection
from tallymark.protocol.messages import (
    Goodbye,
    Health,
    HealthReport,
    Nack,
    Query,
    Refused,
    Reply,
    ServerMessage,
    Welcome,
)

RECEIVE_BYTES = 64 * 1024
CONNECT_RETRY_SECONDS: Final = 0.01

# An agent may have given SIGPIPE its default back: a daemon's end must not kill it.
_SEND_FLAGS: Final[int] = getattr(socket, "MSG_NOSIGNAL", 0)
_SO_NOSIGPIPE_DARWIN: Final = 0x1022

READABLE = 1
"""The connection has bytes for us, or has ended."""

WRITABLE = 2
"""The connection takes more bytes."""

WOKEN = 4
"""``Poller.wake`` was called."""

NOT_TALLYMARK = "what listens there is not tallymarkd"


def cannot_reach(path: Path, cause: str) -> ConnectError:
    """The one form of this message."""
    return ConnectError(f"cannot reach tallymarkd at {path}: {cause}")


def silent(path: Path, seconds: float) -> ConnectError:
    """Somebody accepted and said nothing."""
    return cannot_reach(
        path,
        f"connected, but no Welcome within {seconds:g} s; it is stopped or busy, "
        "or another program listens there",
    )


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

        Raises ``ConnectError``; when there are several paths it tells of each.
        A connection alone means nothing: a stopped daemon has it too.
        """
        failures: list[ConnectError] = []
        for path in paths:
            try:
                return cls(_open(path), path)
            except ConnectError as failure:
                failures.append(failure)
        raise _join(failures)

    def fileno(self) -> int:
        """The descriptor, or -1 when closed."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether the system has not taken all that was given to ``send``."""
        return bool(self._unsent)

    def send(self, data: bytes) -> None:
        """Give bytes to the system; what it does not take now is kept for ``resume``.

        Raises ``OSError`` when the connection is gone.
        """
        if self._unsent:
            self._unsent.append(memoryview(data))
            return
        sent = self._try(data)
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
            self._cut = sent > 0

    def resume(self) -> None:
        """Go on with what was kept. Raises ``OSError`` when the connection is gone."""
        while self._unsent:
            data = self._unsent[0]
            sent = self._try(data)
            if sent < len(data):
                self._unsent[0] = data[sent:]
                self._cut = self._cut or sent > 0
                return
            self._unsent.popleft()
            self._cut = False

    def retract(self) -> None:
        """Forget what was kept, but for the rest of a piece that has begun."""
        while len(self._unsent) > (1 if self._cut else 0):
            self._unsent.pop()

    def _try(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data, _SEND_FLAGS)
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
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if sys.platform == "darwin":
            sock.setsockopt(socket.SOL_SOCKET, _SO_NOSIGPIPE_DARWIN, 1)
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        raise cannot_reach(path, _cause(path, error)) from error
    return sock


def _cause(path: Path, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "no socket there; it is not running"
        case errno.ECONNREFUSED if not is_socket(path):
            return "what is there is not a socket"
        case errno.ECONNREFUSED:
            return "connection refused: nobody listens; it is not running"
        case errno.EACCES | errno.EPERM:
            return "permission denied; it belongs to another user"
        case errno.EAGAIN:
            return "connections waiting for it fill its queue; it is stopped or busy"
    return error.strerror or str(error)


def _join(failures: list[ConnectError]) -> ConnectError:
    if len(failures) == 1:
        return failures[0]
    first = str(failures[0])
    rest = [str(failure).removeprefix("cannot reach tallymarkd ") for failure in failures[1:]]
    return ConnectError("; nor ".join([first, *rest]))


class Poller:
    """Waits for a connection, a wake-up from another thread, or a time.

    Any thread, and a signal handler, may call ``wake``; the rest belongs to
    the thread that waits.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)
        self._wake_fd = self._reader.fileno()
        self._woken = False
        self._watched: Transport | None = None

    def wake(self) -> None:
        """End a wait that is going on, or the next one."""
        if self._woken:
            return
        self._woken = True
        # Full: it will wake anyway. Closed: nobody waits any more.
        with contextlib.suppress(OSError):
            self._writer.send(b"\0", _SEND_FLAGS)

    def watch(self, transport: Transport | None) -> None:
        """Wait for this connection from now on, and for no other."""
        if self._watched is not None:
            self._poll.unregister(self._watched_fd)
        self._watched = transport
        if transport is not None:
            self._watched_fd = transport.fileno()
            self._poll.register(self._watched_fd, select.POLLIN)
            self._wants_write = False

    def wait(self, seconds: float | None) -> int:
        """READABLE, WRITABLE and WOKEN as they happened; 0 when the time is over.

        WRITABLE is looked for while the connection has something unsent. A
        wake-up stays until ``clear``.
        """
        transport = self._watched
        if transport is not None and transport.unsent is not self._wants_write:
            self._wants_write = transport.unsent
            mask = select.POLLIN | (select.POLLOUT if self._wants_write else 0)
            self._poll.modify(self._watched_fd, mask)
        found = 0
        # poll takes milliseconds: rounded up, or a short wait would spin.
        wait_ms = None if seconds is None else max(0, int(seconds * 1000 + 0.999))
        for fd, mask in self._poll.poll(wait_ms):
            if fd == self._wake_fd:
                found |= WOKEN
            else:
                found |= WRITABLE if mask & select.POLLOUT else 0
                found |= READABLE if mask & ~select.POLLOUT else 0
        return found

    def clear(self) -> None:
        """Take back wake-ups that have been seen."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        # In this order: who finds the flag still set has left its work before
        # this line, and the waiting thread looks for work after it.
        self._woken = False

    def close(self) -> None:
        """Close this process's descriptors."""
        self._reader.close()
        self._writer.close()


Question = Query | Health
Answer = Reply | HealthReport


def ask(
    paths: Sequence[Path],
    questions: Sequence[Question],
    timeout_seconds: float,
    *,
    client: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> list[Answer]:
    """Put questions to the daemon in a conversation of their own; answers in order.

    The pieces of a Reply come joined into one. ``timeout_seconds`` is for the
    whole. Blocks the calling thread, and uses nothing shared.

    Raises ``ConnectError`` when no tallymarkd can be talked to, ``RefusedError``
    when it refuses, ``ReplyTimeout`` when it answers the connection and not
    the question.
    """
    conversation = _Conversation(paths, questions, timeout_seconds, clock)
    try:
        return conversation.run(client)
    finally:
        conversation.close()


class _Conversation:
    def __init__(
        self,
        paths: Sequence[Path],
        questions: Sequence[Question],
        timeout_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._questions = questions
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._deadline = clock() + timeout_seconds
        self._connection = ClientConnection()
        self._bodies: dict[int, list[bytes]] = {}
        self._answers: dict[int, Answer] = {}
        self._asked = {question.id for question in questions}
        self._poller = Poller()
        try:
            self._transport = self._connect(paths)
        except BaseException:
            self._poller.close()
            raise

    def _connect(self, paths: Sequence[Path]) -> Transport:
        while True:
            try:
                return Transport.connect(paths)
            except ConnectError as error:
                cause = error.__cause__
                full = isinstance(cause, OSError) and cause.errno == errno.EAGAIN
                if not full or self._clock() + CONNECT_RETRY_SECONDS >= self._deadline:
                    raise
                self._poller.wait(CONNECT_RETRY_SECONDS)

    def close(self) -> None:
        self._transport.close()
        self._poller.close()

    def run(self, client: str) -> list[Answer]:
        self._poller.watch(self._transport)
        try:
            self._transport.send(self._connection.start(client=client))
            while not self._answers.keys() >= self._asked:
                self._wait()
                self._take()
        except ProtocolError as error:
            raise self._foreign(str(error)) from error
        except OSError as error:
            raise self._gone() from error
        return [self._answers[question.id] for question in self._questions]

    def _wait(self) -> None:
        left = self._deadline - self._clock()
        if left > 0 and self._poller.wait(left):
            return
        if self._connection.welcome is None:
            raise silent(self._transport.path, self._timeout_seconds)
        raise ReplyTimeout(
            f"cannot get an answer from tallymarkd at {self._transport.path}: "
            f"connected, but nothing within {self._timeout_seconds:g} s; it is stopped or busy"
        )

    def _take(self) -> None:
        self._transport.resume()
        data = self._transport.receive()
        if data is None:
            return
        if not data:
            raise self._gone()
        for message in self._connection.receive(data):
            self._handle(message)

    def _handle(self, message: ServerMessage) -> None:
        match message:
            case Welcome():
                for question in self._questions:
                    self._transport.send(self._connection.send(question))
            case Reply():
                self._add(message)
            case HealthReport():
                self._answers[message.id] = message
            case Refused():
                raise RefusedError(
                    message.code,
                    f"tallymarkd at {self._transport.path} refused the conversation: "
                    f"{message.message} ({message.code})",
                )
            case Nack():
                raise cannot_reach(
                    self._transport.path, f"it is not ready: {message.message} ({message.code})"
                )
            case Goodbye():
                raise cannot_reach(self._transport.path, "it is stopping")

    def _add(self, reply: Reply) -> None:
        pieces = self._bodies.setdefault(reply.id, [])
        pieces.append(reply.body)
        if not reply.more:
            self._answers[reply.id] = Reply(id=reply.id, body=b"".join(pieces), error=reply.error)

    def _foreign(self, cause: str) -> ConnectError:
        return cannot_reach(self._transport.path, f"{NOT_TALLYMARK}: {cause}")

    def _gone(self) -> DeliveryError:
        if self._connection.welcome is None:
            return cannot_reach(
                self._transport.path,
                f"it closed the connection without a Welcome; it is stopping, or {NOT_TALLYMARK}",
            )
        return DeliveryError(
            f"cannot get an answer from tallymarkd at {self._transport.path}: "
            "it closed the connection; it is stopping"
        )
