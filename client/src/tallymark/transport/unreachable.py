"""What to say when no tallymarkd can be reached: one clear line for each cause."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from tallymark.errors import ConnectError, ProtocolError
from tallymark.fs import is_socket

NOR = "; nor "
"""Stands between the causes where several sockets were tried."""

NOT_TALLYMARK = "what listens there is not tallymarkd"

TURNED_AWAY: Final = b"cannot "
"""How the daemon's one line begins to whom it does not let in, before either tongue is
spoken. As the length of a frame it would be far too large."""

OF_ANOTHER_USER: Final = "cannot serve uid "
"""How that line begins when it is on account of who connects."""

NOT_LET_IN = (
    "run this as the user it runs as, start a tallymarkd of your own, or have it serve you "
    "(--serve all, and a socket that you may open)"
)
"""What to do about a daemon that may well run: to start or restart it would not help."""


def cannot_reach(path: Path, cause: str, remedy: str = "") -> ConnectError:
    """The one form of this message."""
    return ConnectError(f"cannot reach tallymarkd at {path}: {cause}", remedy)


def silent(path: Path, seconds: float) -> ConnectError:
    """Somebody accepted and said nothing."""
    return cannot_reach(
        path,
        f"connected, but no Welcome within {seconds:g} s; it is stopped or busy, "
        "or another program listens there",
    )


def connect_failed(path: Path, error: OSError) -> ConnectError:
    """The system refused the connection."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return cannot_reach(path, "permission denied: it belongs to another user", NOT_LET_IN)
    return cannot_reach(path, _cause(path, error))


def _cause(path: Path, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "no socket there; it is not running"
        case errno.ECONNREFUSED if not is_socket(path):
            return "what is there is not a socket"
        case errno.ECONNREFUSED:
            return "connection refused: nobody listens; it is not running"
        case errno.EAGAIN:
            return "connections waiting for it fill its queue; it is stopped or busy"
    return error.strerror or str(error)


def join(failures: list[ConnectError]) -> ConnectError:
    if len(failures) == 1:
        return failures[0]
    first = failures[0].message
    rest = [failure.message.removeprefix("cannot reach tallymarkd ") for failure in failures[1:]]
    remedies = dict.fromkeys(failure.remedy for failure in failures if failure.remedy)
    return ConnectError(NOR.join([first, *rest]), "; ".join(remedies))


def turned_away(path: Path, data: bytes) -> ConnectError | None:
    """For the first bytes of an answer: the daemon let nobody in, and says why; else None."""
    if not data.startswith(TURNED_AWAY):
        return None
    line = data.decode(errors="replace").splitlines()[0]
    remedy = NOT_LET_IN if line.startswith(OF_ANOTHER_USER) else ""
    return cannot_reach(path, f"it turned the connection away: {line}", remedy)


def broken(path: Path, error: ConnectError | ProtocolError | OSError) -> ConnectError:
    """What to say of a conversation that ended in an error."""
    if isinstance(error, ConnectError):
        return error
    if isinstance(error, ProtocolError):
        return cannot_reach(path, f"{NOT_TALLYMARK}: {error}")
    return cannot_reach(path, f"the connection broke: {error.strerror or error}")
