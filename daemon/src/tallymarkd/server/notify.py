"""What the service manager is told: sd_notify(3), one datagram at a time.

Without ``NOTIFY_SOCKET`` nobody wants to know, and nothing is sent.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import MutableMapping

from tallymark.errors import UsageError
from tallymarkd.text import one_line

SEND_TIMEOUT_SECONDS = 1.0
"""For a service manager that does not read. It is systemd's watchdog that judges us, so
we may not wait for it for long."""

STATUS_CHARS_MAX = 200
"""One line on a screen."""

log = logging.getLogger("tallymarkd")


class Notifier:
    """Speaks to the service manager, if there is one. Any thread."""

    def __init__(self, address: str = "") -> None:
        """``address`` is the path of a datagram socket, or an abstract name after ``@``."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._failed = False

    @classmethod
    def from_environment(cls, env: MutableMapping[str, str]) -> Notifier:
        """Whom ``NOTIFY_SOCKET`` names. The variable is removed: it is not for children.

        Raises ``UsageError`` for an address that is of no use.
        """
        address = env.pop("NOTIFY_SOCKET", "")
        if address and address[0] not in "/@":
            raise UsageError(
                f"cannot use NOTIFY_SOCKET={address!r}: it must be an absolute path, "
                "or begin with @; the service manager sets it"
            )
        return cls(address)

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def starting(self, status: str) -> None:
        """Still on the way; ``status`` says where."""
        self._send(_status(status))

    def ready(self, status: str) -> None:
        """Events can be made durable from now on; also the end of a reload."""
        self._send("READY=1", _status(status))

    def reloading(self, monotonic_usec: int) -> None:
        """The configuration is read again. ``ready`` must follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_usec}", _status("reloading"))

    def alive(self, status: str) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1", _status(status))

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._send("STOPPING=1", _status(status))

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_TIMEOUT_SECONDS)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._failed:
                log.warning("cannot reach the service manager: %s", error.strerror or error)
            self._failed = True
        else:
            self._failed = False


def _status(text: str) -> str:
    return "STATUS=" + one_line(text)[:STATUS_CHARS_MAX]


def watchdog_seconds(env: MutableMapping[str, str], pid: int) -> float | None:
    """How often the service manager wants to hear of process ``pid``; None: it does not.

    ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` (sd_watchdog_enabled(3)) are removed from
    ``env``. Raises ``UsageError``.
    """
    usec, of_pid = env.pop("WATCHDOG_USEC", ""), env.pop("WATCHDOG_PID", "")
    if not usec or (of_pid and of_pid != str(pid)):
        return None
    if not (usec.isascii() and usec.isdigit() and int(usec)):
        raise UsageError(
            f"cannot read WATCHDOG_USEC={usec!r}: it must be a number of microseconds; "
            "the service manager sets it"
        )
    return int(usec) / 1e6
