"""What to say when no tallymarkd can be reached: one clear line for each cause."""

from __future__ import annotations

import errno
from pathlib import Path

from tallymark.errors import ConnectError
from tallymark.fs import is_socket

NOT_TALLYMARK = "what listens there is not tallymarkd"


TURNED_AWAY = b"cannot "
"""How the daemon's one line begins to whom it does not let in, before either tongue is
spoken. As the length of a frame it would be far too large."""


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


def check_turned_away(path: Path, first_words: bytes) -> None:
    """Raises ``ConnectError`` when the daemon does not let this client in."""
    if first_words.startswith(TURNED_AWAY):
        line = first_words.decode(errors="replace").splitlines()[0]
        raise cannot_reach(path, f"it turned the connection away: {line}")


def connect_failed(path: Path, error: OSError) -> ConnectError:
    """The system refused the connection."""
    return cannot_reach(path, _cause(path, error))


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


def join(failures: list[ConnectError]) -> ConnectError:
    if len(failures) == 1:
        return failures[0]
    first = str(failures[0])
    rest = [str(failure).removeprefix("cannot reach tallymarkd ") for failure in failures[1:]]
    return ConnectError("; nor ".join([first, *rest]))


def broken(error: OSError) -> str:
    """What to say of a connection that ended in an error."""
    return f"the connection broke: {error.strerror or error}"
