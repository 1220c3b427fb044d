"""Asks a running daemon to retire no history while its files are copied."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from tallymark.errors import DeliveryError, RefusedError, StorageError
from tallymark.protocol.messages import Query, Reply
from tallymark.transport import Asking
from tallymarkd.cli.asking import CLIENT, QuestionRefused
from tallymarkd.cli.place import Place
from tallymarkd.core.holds import Held

HOLD_TIMEOUT_SECONDS = 30.0
"""A segment that is being retired may have to wait for a slow disk."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What the daemon answered. ``check`` raises ``StorageError`` when it has let go."""

    held: Held
    check: Callable[[], None]


@contextlib.contextmanager
def holding(place: Place) -> Iterator[Hold]:
    """Nothing is retired inside of this, nor after the process was killed in it.

    Raises ``ConnectError`` when no daemon answers, ``QuestionRefused`` and ``StorageError``
    when it will not hold, ``DeliveryError``.
    """
    asking = Asking(
        place.sockets(), [Query(id=1, what="hold")], HOLD_TIMEOUT_SECONDS, time.monotonic
    )
    try:
        yield Hold(_answer(asking), lambda: _check(asking))
    finally:
        asking.close()


def _answer(asking: Asking) -> Held:
    try:
        (reply,) = asking.run(CLIENT)
    except RefusedError as error:
        if error.code != "protocol_error":
            raise
        raise StorageError(
            f"cannot back up while tallymarkd at {asking.path} runs: its version "
            f"{asking.version} is older than this command and does not know how to hold its "
            "history; restart it with this version, or stop it and back up again"
        ) from error
    if not isinstance(reply, Reply):
        raise DeliveryError("cannot understand tallymarkd's answer: it is no reply")
    if reply.error:
        raise QuestionRefused(reply.error)
    try:
        return msgspec.json.decode(reply.body, type=Held)
    except msgspec.MsgspecError as error:
        raise DeliveryError(f"cannot understand tallymarkd's answer: {error}") from None


def _check(asking: Asking) -> None:
    if not asking.goes_on():
        raise StorageError(
            f"cannot finish the backup: tallymarkd at {asking.path} stopped while its files were "
            "copied, and holds its history no longer; run the backup again"
        )
