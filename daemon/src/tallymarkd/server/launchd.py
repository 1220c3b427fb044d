"""Takes the listening sockets that launchd holds for this job (launch_activate_socket(3)).

Only for macOS; what is here is tried elsewhere against a library that stands in.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from tallymark.errors import UsageError

_CAUSES = {
    errno.ENOENT: "its property list has no socket of that name",
    errno.ESRCH: "launchd did not start this process",
    errno.EALREADY: "it has been taken already",
}


class LaunchdError(UsageError):
    """launchd does not give the socket; another start would not change that."""


def activate(name: str, library: str | None = None) -> list[int]:
    """The file descriptors of the socket ``name`` under ``Sockets`` of the property list.

    At least one, close-on-exec, the caller's to close; each can be had only once
    in a process. ``library`` None is what the process has loaded, the C library
    among it. Raises ``LaunchdError``.
    """
    # Costs some milliseconds, and nobody else needs it.
    import ctypes

    try:
        functions = ctypes.CDLL(library)
        launch_activate_socket = functions.launch_activate_socket
    except (AttributeError, OSError):
        raise LaunchdError(
            f"cannot take the socket {name} from launchd: this system has none; "
            "--launchd is for a LaunchAgent on macOS, leave it out"
        ) from None
    launch_activate_socket.restype = ctypes.c_int
    launch_activate_socket.argtypes = [
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.POINTER(ctypes.c_int)),
        ctypes.POINTER(ctypes.c_size_t),
    ]
    fds, count = ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t()
    error = launch_activate_socket(name.encode(), ctypes.byref(fds), ctypes.byref(count))
    if error:
        raise _refused(name, _CAUSES.get(error, os.strerror(error)))
    found = [fds[at] for at in range(count.value)]
    _free(functions, fds)
    if not found:
        raise _refused(name, "it gave none")
    for fd in found:
        os.set_inheritable(fd, False)
    return found


def _free(functions: Any, fds: Any) -> None:
    """Give the array back to the allocator that it came from."""
    import ctypes

    free = functions.free
    free.restype = None
    free.argtypes = [ctypes.c_void_p]
    free(fds)


def _refused(name: str, cause: str) -> LaunchdError:
    return LaunchdError(
        f"cannot take the socket {name} from launchd: {cause}; `tallymark service install` "
        "writes a LaunchAgent that has it; without launchd leave out --launchd"
    )
