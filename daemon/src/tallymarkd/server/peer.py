"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct
import sys

if sys.platform == "darwin":
    # struct xucred: version, uid, number of groups, 16 groups (sys/ucred.h).
    _SOL_LOCAL = 0
    _LOCAL_PEERCRED = 1
    _xucred = struct.Struct("IIh16I")

    def peer_uid(sock: socket.socket) -> int:
        """The user id of whoever connected. Raises ``OSError``."""
        data = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _xucred.size)
        return int(_xucred.unpack(data)[1])
else:
    _ucred = struct.Struct("3i")

    def peer_uid(sock: socket.socket) -> int:
        """The user id of whoever connected. Raises ``OSError``."""
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _ucred.size)
        return int(_ucred.unpack(data)[1])
