"""A service manager's end of sd_notify, for tests."""

from __future__ import annotations

import select
import socket
from pathlib import Path
from types import TracebackType

from tests.daemon import DEADLINE_SECONDS


class NotifySocket:
    """Receives what a daemon tells, one datagram at a time."""

    def __init__(self, address: Path | str) -> None:
        """``address`` is a path, or an abstract name after ``@``."""
        self.address = str(address)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.address.replace("@", "\0", 1))
        self._sock.settimeout(DEADLINE_SECONDS)

    def __enter__(self) -> NotifySocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._sock.close()

    def next(self) -> dict[str, str]:
        """The next datagram, as names and values. Fails after the deadline."""
        lines = self._sock.recv(65536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def until(self, name: str) -> dict[str, str]:
        """The next datagram that sets ``name``; what comes before it is not kept."""
        while name not in (found := self.next()):
            pass
        return found

    def pending(self) -> bool:
        """Whether a datagram has come."""
        return bool(select.select([self._sock], [], [], 0)[0])
