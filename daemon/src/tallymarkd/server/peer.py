"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

OVERFLOW_UID = 65534
"""Stands for every user whom our namespace does not know (user_namespaces(7)); the
kernel's default."""

UID_MAP = Path("/proc/self/uid_map")

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


def is_root(uid: int, sock: Path, uid_map: Path = UID_MAP) -> bool:
    """Whether a peer is root.

    In a user namespace of our own (``PrivateUsers=`` of a user unit) root looks like
    any stranger. There the socket tells: when only its owner may connect, whoever else
    has come through is root.
    """
    if uid == 0:
        return True
    if uid != OVERFLOW_UID:
        return False
    try:
        return _knows_no_root(uid_map) and os.stat(sock).st_mode & 0o077 == 0
    except OSError:
        return False


def _knows_no_root(uid_map: Path) -> bool:
    """Each line: the first uid inside, the first outside, how many."""
    rows = [line.split() for line in uid_map.read_text().splitlines()]
    return bool(rows) and all(int(inside) > 0 for inside, _, _ in rows)
