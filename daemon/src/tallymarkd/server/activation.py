"""A socket that systemd has bound and listens on, handed to us at the start.

The protocol is sd_listen_fds(3): ``LISTEN_PID`` says for whom, ``LISTEN_FDS``
how many from file descriptor 3 on, ``LISTEN_FDNAMES`` what each is called.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from tallymark.errors import UsageError

FIRST_FD = 3
"""SD_LISTEN_FDS_START of sd-daemon.h."""

SOCKET_NAME = "tallymarkd"
"""What the units call our socket: ``FileDescriptorName=``, and the key in launchd's."""

NAMES = frozenset({SOCKET_NAME, f"{SOCKET_NAME}.socket", "unknown", ""})
"""Names that will do. A unit without ``FileDescriptorName=`` gives its own file name,
``systemd-socket-activate`` without ``--fdname`` gives ``unknown``."""

VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def inherited_socket(env: MutableMapping[str, str], pid: int) -> socket.socket | None:
    """The socket that was handed to process ``pid``; None when there is none.

    The variables are removed from ``env``: they are not meant for children.
    Raises ``UsageError`` when what was handed over is not one listening Unix
    stream socket of ours; nothing is closed then.
    """
    given = {name: env.pop(name) for name in VARIABLES if name in env}
    if given.get("LISTEN_PID") != str(pid):
        return None
    count = _count(given)
    if count == 0:
        return None
    if count > 1:
        raise UsageError(
            f"cannot use {count} sockets of the service manager: "
            "one is right; give tallymarkd a socket unit with one ListenStream="
        )
    name = given.get("LISTEN_FDNAMES", "")
    if name not in NAMES:
        raise UsageError(
            f"cannot use the socket {name!r} of the service manager: it must be called "
            f"{SOCKET_NAME} (FileDescriptorName={SOCKET_NAME} in the socket unit)"
        )
    return adopt(FIRST_FD)


def _count(given: Mapping[str, str]) -> int:
    text = given.get("LISTEN_FDS", "0")
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"cannot read LISTEN_FDS={text!r}: it must be a number of sockets")
    return int(text)


def adopt(fd: int) -> socket.socket:
    """The socket behind a file descriptor that a service manager has handed over.

    It does not block, and no child gets it. Raises ``UsageError``.
    """
    what = f"cannot use file descriptor {fd} of the service manager"
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}; a listening Unix socket is right") from None
    problem = _problem(sock)
    if problem:
        sock.detach()
        raise UsageError(f"{what}: {problem}; a listening Unix stream socket is right")
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _problem(sock: socket.socket) -> str:
    if sock.family != socket.AF_UNIX:
        return f"it is of the family {sock.family.name}"
    if sock.type != socket.SOCK_STREAM:
        return f"it is of the type {sock.type.name}"
    if not _listens(sock):
        return "it does not listen"
    name = sock.getsockname()
    if not isinstance(name, str) or not name:
        return "it has no path"
    return ""


def _listens(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        # macOS cannot be asked; listen() alone tells, and changes nothing else.
        return True


def path_of(sock: socket.socket) -> Path:
    """Where a bound Unix socket stands."""
    return Path(os.path.abspath(sock.getsockname()))
