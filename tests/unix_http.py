"""HTTP over a Unix socket, as a program of somebody else would speak it."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from tests.daemon import DEADLINE_SECONDS


class UnixHTTP(http.client.HTTPConnection):
    """http.client over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE_SECONDS)
        self.sock.connect(str(self._path))
