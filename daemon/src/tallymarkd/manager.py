"""What a service manager has handed us: a socket, a place to report to, a watchdog.

systemd hands them over in the environment, launchd when it is asked. Started by
hand there is none of it.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass, replace

from tallymark.errors import UsageError
from tallymark.fs import FileSystem
from tallymarkd.config import Settings
from tallymarkd.server import launchd
from tallymarkd.server.activation import SOCKET_NAME, adopt, inherited_socket, path_of
from tallymarkd.server.listener import Listener
from tallymarkd.server.notify import Notifier, watchdog_seconds

IMPLIED = ("default", "in state_dir")
"""How the origin of a socket path begins that nobody has given."""


@dataclass(frozen=True, slots=True)
class Manager:
    """The service manager, as far as there is one.

    ``settings`` has its socket's path; ``loaded`` is what there was before.
    """

    loaded: Settings
    settings: Settings
    notifier: Notifier
    watchdog_seconds: float | None
    listener: Listener | None

    @classmethod
    def from_environment(
        cls, settings: Settings, fs: FileSystem, env: MutableMapping[str, str]
    ) -> Manager:
        """Take over what is there for this process. Raises ``UsageError``."""
        pid = os.getpid()
        notifier = Notifier.from_environment(env)
        watchdog = watchdog_seconds(env, pid)
        sock = adopt(_from_launchd()) if settings.launchd else inherited_socket(env, pid)
        if sock is None:
            return cls(settings, settings, notifier, watchdog, None)
        listener = Listener(sock, path_of(sock), fs)
        return cls(settings, _listening_on(settings, listener), notifier, watchdog, listener)


def _listening_on(settings: Settings, listener: Listener) -> Settings:
    """The settings with the path that the service manager has chosen."""
    origin = settings.origins.get("socket", "default")
    if settings.socket != listener.path and not origin.startswith(IMPLIED):
        raise UsageError(
            f"cannot listen on {settings.socket} ({origin}): the service manager has handed "
            f"over {listener.path}; leave the setting out, or change the socket unit"
        )
    origins = {**settings.origins, "socket": "handed over by the service manager"}
    return replace(settings, socket=listener.path, origins=origins)


def _from_launchd() -> int:
    """The file descriptor of the one socket that launchd has for us."""
    found = launchd.activate(SOCKET_NAME)
    if len(found) != 1:
        raise UsageError(
            f"cannot use {len(found)} sockets of launchd: one is right; "
            f"give the LaunchAgent one under Sockets, {SOCKET_NAME}"
        )
    return found[0]


def on_terminal() -> bool:
    """Whether any standard stream is a terminal that is there: messages may go elsewhere."""
    return any(map(_is_terminal, (0, 1, 2)))


def _is_terminal(number: int) -> bool:
    try:
        return os.isatty(number)
    except OSError:
        return False
