"""What the sender thread waits with."""

from __future__ import annotations

import contextlib
import select
import socket

from tallymark.transport.link import SEND_FLAGS, Transport

READABLE = 1
"""The connection has bytes for us, or has ended."""

WRITABLE = 2
"""The connection takes more bytes."""

WOKEN = 4
"""``Poller.wake`` was called."""


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
        self._watched_fd = -1
        self._wants_write = False

    def wake(self) -> None:
        """End a wait that is going on, or the next one."""
        if self._woken:
            return
        try:
            # In this order: after it, ``clear`` may take it back before it was said.
            self._woken = True
            self._writer.send(b"\0", SEND_FLAGS)
        except OSError:
            # Full: it will wake anyway. Closed: nobody waits any more.
            pass
        except BaseException:
            # A signal handler raised: perhaps nothing was sent, and once more does no harm.
            self._woken = False
            raise

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
