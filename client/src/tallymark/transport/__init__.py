"""The only place of the client with a socket.

``Transport`` is one connection and ``Poller`` what the sender thread waits
with; ``ask`` is a short conversation of its own, for any thread, and ``Asking`` the same,
which stays open after the answers.
"""

from tallymark.transport.asking import Answer, Asking, Question, ask
from tallymark.transport.link import Transport
from tallymark.transport.poller import READABLE, WOKEN, WRITABLE, Poller
from tallymark.transport.unreachable import (
    broken,
    cannot_reach,
    silent,
    turned_away,
)

__all__ = [
    "READABLE",
    "WOKEN",
    "WRITABLE",
    "Answer",
    "Asking",
    "Poller",
    "Question",
    "Transport",
    "ask",
    "broken",
    "cannot_reach",
    "silent",
    "turned_away",
]
