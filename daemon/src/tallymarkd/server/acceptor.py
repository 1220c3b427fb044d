"""Takes connections from a listening socket, never more than there is room for.

asyncio's own server accepts whatever waits, up to the last file descriptor, and
makes an exception of the loop's out of what then fails. Here the last descriptors
are never touched: who finds no room waits in the socket's queue.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable
from functools import partial

ACCEPTED_AT_ONCE = 64
"""In one turn of the loop, so that a crowd at the door does not keep others waiting."""

RETRY_SECONDS = 1.0
"""Until accepting is tried again. Room that a connection leaves is seen at once."""

EPISODE_SECONDS = 60.0
"""What the machine lacks is told once, and again after so long a time without lack."""

SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Descriptors or memory that the machine lacks: no fault of the daemon's or the socket's."""

log = logging.getLogger("tallymarkd")


class Acceptor:
    """Accepts on a bound socket and gives each connection a protocol. Loop thread only."""

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[], asyncio.Protocol],
        room: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``room`` says how many connections may be open; it is asked before each."""
        self._sock = sock
        self._make = make
        self._room = room
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._arriving: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._scarce_until = -EPISODE_SECONDS
        self.open = 0
        """Connections that were accepted and are not closed."""

    def start(self) -> None:
        """Begin to accept."""
        self._loop.add_reader(self._sock, self._accept)

    async def stop(self) -> None:
        """Accept nobody more, see in who was accepted, and close the socket.

        Who was not waits in its queue: for the next daemon, if somebody else holds it.
        """
        if self._stopped:
            return
        self._stopped = True
        self._go_on()
        self._loop.remove_reader(self._sock)
        if self._arriving:
            await asyncio.wait(self._arriving)
        self._sock.close()

    def closed(self) -> None:
        """One connection is closed."""
        self.open -= 1
        if self._timer is not None and self.open < self._room():
            self._go_on()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if self.open >= self._room():
                self._pause()
                return
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in SCARCE:
                    raise
                self._lack(error)
                return
            self._see_in(sock)

    def _see_in(self, sock: socket.socket) -> None:
        self.open += 1
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._make, sock))
        self._arriving.add(task)
        task.add_done_callback(partial(self._arrived, sock))

    def _arrived(self, sock: socket.socket, task: asyncio.Task[object]) -> None:
        self._arriving.discard(task)
        if not task.cancelled() and task.exception() is not None:
            sock.close()
            self.closed()  # its protocol has never seen it
            task.result()

    def _lack(self, error: OSError) -> None:
        now = self._clock()
        if now >= self._scarce_until:
            log.error("cannot accept connections: %s; trying again every %g s, and clients wait "
                      "or spool; see what holds so many files open, here and on the machine",
                      error.strerror or error, RETRY_SECONDS)  # fmt: skip
        self._scarce_until = now + EPISODE_SECONDS
        self._pause()

    def _pause(self) -> None:
        # The socket stays readable: without this the loop would spin.
        self._loop.remove_reader(self._sock)
        self._timer = self._loop.call_later(RETRY_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if not self._stopped:
                self._loop.add_reader(self._sock, self._accept)
