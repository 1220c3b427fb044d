"""Every exception of tallymark, in one tree that says whose fault it was.

::

    TallymarkError
    ├── UsageError (ValueError)     the caller gave something that cannot be right
    │   ├── SettingError            a setting, by name, with what would be right
    │   └── PathError               a path that cannot be used: too long, in the way
    ├── DeliveryError               the daemon cannot be used just now
    │   ├── ConnectError            nobody is there, or somebody who is not tallymarkd
    │   ├── RefusedError            the daemon refused this client for good
    │   ├── ReplyTimeout            the daemon did not answer in time
    │   └── FlushTimeout            events are still pending after the time given
    ├── ProtocolError               the other side broke the protocol
    └── StorageError                something on disk
        ├── DamagedError            bytes that do not verify
        ├── NewerFormatError        written by a newer version; nothing was touched
        ├── LockAcquisitionError    a file's lock was not to be had (tallymarkd)
        └── DaemonOwnedError        a directory that a daemon writes (tallymarkd)
"""

from __future__ import annotations

import functools


class TallymarkError(Exception):
    """Base of every exception that tallymark raises on purpose."""


class UsageError(TallymarkError, ValueError):
    """The caller gave something that cannot be right."""


class SettingError(UsageError):
    """A setting is wrong; the message names it and says what would be right."""


class PathError(UsageError):
    """A path cannot be used, whatever is done to the file system behind it."""


class DeliveryError(TallymarkError):
    """The daemon cannot be used just now; events stay queued."""


class ConnectError(DeliveryError):
    """No tallymarkd answers at the socket: absent, stopped, or another program.

    ``message`` says what could not be done and why. ``remedy`` says what to do, where
    that is something else than to start tallymarkd; it is part of the text then.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class RefusedError(DeliveryError):
    """The daemon refused this client for good; trying again would not help."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        # Raised in a worker of a process pool, it travels to who waits for that.
        return type(self), (self.code, *self.args), vars(self)


class ReplyTimeout(DeliveryError):
    """The daemon accepted a question and did not answer it in time."""


class FlushTimeout(DeliveryError):
    """Events were still pending when the time given to ``flush`` was over.

    They remain pending and are delivered later; emitting them again would
    count them twice.
    """

    def __init__(self, message: str, *, pending_events: int) -> None:
        super().__init__(message)
        self.pending_events = pending_events

    def __reduce__(self) -> tuple[object, ...]:
        make = functools.partial(type(self), pending_events=self.pending_events)
        return make, self.args, vars(self)


class ProtocolError(TallymarkError):
    """The other side sent bytes that the protocol does not allow."""


class StorageError(TallymarkError):
    """Something on disk cannot be used."""


class DamagedError(StorageError):
    """Bytes on disk do not verify."""


class NewerFormatError(StorageError):
    """A file was written by a newer version; it has not been touched."""
