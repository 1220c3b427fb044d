"""How a program inside tells what it does, and learns that it should come to its end."""

from __future__ import annotations

import os
import select
import time
from typing import Any

import msgspec

TELL_SECONDS = 0.05


def tell(**what: Any) -> None:
    """One line to whoever started this."""
    os.write(1, msgspec.json.encode(what) + b"\n")


class Teller:
    """Tells now and then, not at every turn."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time to tell."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + TELL_SECONDS
        return True


def asked_to_end(seconds: float = 0.0) -> bool:
    """Whether the standard input has ended; waits for that so long."""
    return bool(select.select([0], [], [], seconds)[0])
