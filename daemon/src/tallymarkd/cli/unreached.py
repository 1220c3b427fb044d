"""What to say, in short lines, where no daemon answers: where it was looked for, what to do."""

from __future__ import annotations

from tallymark.errors import ConnectError, DeliveryError, TallymarkError
from tallymark.transport.unreachable import NOR

ABSENT = "it is not running"
"""In the message about a daemon that is simply not there."""

START = "to start it: tallymarkd, or for every day: tallymark service install"


class Unreached(TallymarkError):
    """Something needs the daemon, and it does not answer. Its notes are lines of their own."""

    def __init__(self, what: str, cause: DeliveryError, *more: str) -> None:
        super().__init__(what)
        self.__notes__ = [*where(cause), *more, *remedy(cause)]


def where(cause: DeliveryError) -> list[str]:
    """A line for each socket that was tried."""
    text = cause.message if isinstance(cause, ConnectError) else str(cause)
    first, *others = text.split(NOR)
    return [first, *(f"nor {other}" for other in others)]


def remedy(cause: DeliveryError) -> list[str]:
    """What to do about it, where that is known."""
    known = [cause.remedy] if isinstance(cause, ConnectError) and cause.remedy else []
    return [*known, START] if is_absent(cause) else known


def is_absent(cause: DeliveryError) -> bool:
    """Whether it is simply not running."""
    return ABSENT in str(cause)
