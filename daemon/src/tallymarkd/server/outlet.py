"""The way out to one client, and what is done about one that does not read.

A transport that is closed waits for ever for its client to take the rest. Meanwhile
the client would hold its connection, and the daemon could not stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GOODBYE_SECONDS = 1.0
"""How long a client may take nothing while the daemon waits for it to stop."""


class Outlet:
    """Writes to a transport, and cuts off who takes none of it for too long.

    Who takes anything at all within the time gets as much time again.
    """

    def __init__(self, transport: asyncio.Transport, patience: Callable[[], float]) -> None:
        """``patience`` gives the seconds within which a client must take something."""
        self._transport = transport
        self._patience = patience
        self._written = 0
        self._taken = 0
        self._timer: asyncio.TimerHandle | None = None

    def write(self, data: bytes) -> None:
        """Send this, after what was written before."""
        self._written += len(data)
        self._transport.write(data)

    def watch(self, seconds: float | None = None) -> None:
        """From now on the client has to read, while there is something to read."""
        self.unwatch()
        left = self._transport.get_write_buffer_size()
        if left:
            self._taken = self._written - left
            seconds = self._patience() if seconds is None else seconds
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look, seconds)

    def unwatch(self) -> None:
        """It may take its time again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self, seconds: float | None = None) -> None:
        """Close once the client has taken everything."""
        if self._transport.is_closing() and seconds is None:
            return
        self._transport.close()
        self.watch(seconds)

    def _look(self, seconds: float) -> None:
        self._timer = None
        left = self._transport.get_write_buffer_size()
        if left and self._written - left <= self._taken:
            self._transport.abort()
        else:
            self.watch(seconds)
