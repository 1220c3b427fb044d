"""What recording threads leave for the sender thread.

Recording must never wait, not even for another thread that holds a lock and
is not running, and may happen inside a signal handler or a destructor. So
nothing here blocks: a ``deque`` takes events, plain integers that a single
thread writes tell how many are on their way, and only counting a *lost*
event takes a (re-entrant) lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from tallymark.errors import DeliveryError
from tallymark.events import EVENT_BYTES_MAX

DropReason = Literal[
    "queue_full", "unencodable", "too_large", "not_an_event", "refused", "failed", "closed"
]

DROP_TEXTS: dict[DropReason, str] = {
    "queue_full": "dropped because the queue was full",
    "unencodable": "dropped because they hold what cannot be encoded",
    "too_large": f"dropped because they are larger than {EVENT_BYTES_MAX} bytes",
    "not_an_event": "dropped because they are not events",
    "refused": "dropped because tallymarkd refused this client",
    "failed": "dropped because the sender failed",
    "closed": "dropped because the client was closed",
}


class Waiter:
    """Somebody who waits until everything recorded so far is durable, or spooled.

    ``notify`` is called once, by the sender thread, when ``seq`` is durable (or
    spooled, unless it must be ``durable``), or ``error`` says why it never will be.
    """

    __slots__ = ("abandoned", "durable", "error", "notify", "seq", "through_event")

    def __init__(self, notify: Callable[[], object], *, durable: bool = False) -> None:
        self.notify = notify
        self.durable = durable
        self.through_event = 0
        """Which event, counted from 1, is the last that it waits for."""
        self.seq = 0
        self.abandoned = False
        self.error: DeliveryError | None = None


class Intake:
    """Queue, bound and counters between recording threads and the sender."""

    __slots__ = (
        "_drop_lock",
        "_refusal",
        "_rouse",
        "dropped",
        "failure",
        "held",
        "limit",
        "news",
        "over",
        "queue",
        "quiet",
        "waiters",
    )

    def __init__(self, events_max: int, rouse: Callable[[], None]) -> None:
        self.queue: deque[Any] = deque()
        self.waiters: deque[Waiter] = deque()
        self.held = 0
        """Events taken from the queue and not settled; only the sender writes it."""
        self.quiet = True
        """Whether the sender sleeps (or does not exist) and must be roused."""
        self.over = False
        """Whether the sender has ended; nothing is delivered any more."""
        self.failure: DeliveryError | None = None
        """Why events that were taken can no longer be delivered."""
        self.limit = events_max
        self.news = False
        """Whether something was dropped since the sender last looked."""
        self.dropped: dict[DropReason, int] = dict.fromkeys(DROP_TEXTS, 0)
        self._refusal: DropReason = "queue_full"
        self._rouse = rouse
        self._drop_lock = threading.RLock()

    def put(self, event: Any) -> bool:
        """Queue an event, or drop and count it. Never blocks, never raises.

        The bound holds for one recording thread to the event; threads that
        race for the last place may each get one.
        """
        queue = self.queue
        if len(queue) + self.held >= self.limit:
            self.drop(self._refusal)
            return False
        queue.append(event)
        if self.quiet:
            self._end_quiet()
        return True

    def _end_quiet(self) -> None:
        try:
            # In this order: a sender that was roused may be quiet again at once.
            self.quiet = False
            self._rouse()
        # A signal handler raised: perhaps nobody was roused, and once more does no harm.
        except BaseException:
            self.quiet = True
            self._rouse()
            raise

    def put_quietly(self, event: Any) -> bool:
        """As ``put``, but the sender is not roused: a waiter follows at once."""
        if len(self.queue) + self.held >= self.limit:
            self.drop(self._refusal)
            return False
        self.queue.append(event)
        return True

    def enlist(self, waiter: Waiter) -> None:
        """Have the sender freeze all that is queued and tell when it is durable."""
        self.waiters.append(waiter)
        self._end_quiet()
        if self.over:
            self.dismiss()

    def dismiss(self) -> None:
        """Tell waiters that came too late for the sender that nobody will serve them."""
        while self.waiters:
            try:
                waiter = self.waiters.popleft()
            except IndexError:
                # The sender's end and a late waiter may both be here.
                return
            waiter.error = self.failure or DeliveryError("cannot flush: the client is closed")
            waiter.notify()

    def pull(self, count: int) -> list[Any]:
        """Take up to ``count`` events, which are held from now on. Sender only."""
        events: list[Any] = []
        take = self.queue.popleft
        while len(events) < count and self.queue:
            # Counted before it leaves the queue: whoever looks at the queue
            # first and at this second never finds an event in neither.
            self.held += 1
            events.append(take())
        return events

    def settle(self, count: int) -> None:
        """Held events that are durable or lost. Sender only."""
        self.held -= count

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count lost events."""
        with self._drop_lock:
            self.dropped[reason] += count
        self.news = True

    def shut(self, reason: DropReason) -> None:
        """Take no event from now on; the reason is what they are counted under."""
        self._refusal = reason
        self.limit = -1

    def abandon_all(self, reason: DropReason) -> None:
        """Count everything that is pending as lost. Sender only."""
        self.shut(reason)
        lost = len(self.queue) + self.held
        self.queue.clear()
        self.held = 0
        self.drop(reason, lost)

    @property
    def half_full(self) -> bool:
        """Whether half of what can be taken is taken."""
        return (len(self.queue) + self.held) * 2 >= self.limit

    @property
    def pending(self) -> int:
        """Events that were taken and are not settled."""
        return len(self.queue) + self.held
