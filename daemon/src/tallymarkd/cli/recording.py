"""Events to the daemon, and what became of them."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tallymark import Client
from tallymark.errors import DeliveryError, FlushTimeout, TallymarkError
from tallymarkd.cli.asking import HEALTH_TIMEOUT_SECONDS, ask_health
from tallymarkd.cli.place import Place

PENDING_EVENTS_MAX = 2000
"""Events on their way at one time: what is in memory stays small."""

UNFIT = ("unencodable", "too_large", "not_an_event")
"""What the library drops because of the event itself."""

GOODBYE_TIMEOUT_SECONDS = 0.2


class NotRecorded(TallymarkError):
    """Not everything became durable in the time given."""


@dataclass
class Outcome:
    """What became of events."""

    stored: int = 0
    duplicate: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def refused(self) -> int:
        """Events that were rejected."""
        return self.rejected.total()

    def add(self, other: Outcome) -> None:
        """Take in what became of other events."""
        self.stored += other.stored
        self.duplicate += other.duplicate
        self.rejected += other.rejected

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stored": self.stored,
            "duplicate": self.duplicate,
            "rejected": dict(self.rejected),
        }


class Recorder:
    """One producer for one project. Use it in a ``with`` block."""

    def __init__(
        self, place: Place, project: str, timeout_seconds: float, *, source: str = ""
    ) -> None:
        # What it logs is told by the command, in its own words.
        log = logging.getLogger("tallymark")
        log.addHandler(logging.NullHandler())
        log.propagate = False
        self._place = place
        self._timeout_seconds = timeout_seconds
        self._client = Client(
            project,
            socket=place.explicit_socket(),
            source=source,
            queue_events_max=2 * PENDING_EVENTS_MAX,
        )
        self._since_flush = 0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        # What was not settled is given up: the command has said so, or is about to.
        self._client.close(GOODBYE_TIMEOUT_SECONDS if exc[0] is None else 0.0)

    def put(self, event: Any) -> None:
        """Hand over one event; waits when much is on its way. Raises ``NotRecorded``."""
        self._client.emit(event)
        self._since_flush += 1
        if self._since_flush >= PENDING_EVENTS_MAX:
            self.settle()

    def settle(self) -> None:
        """Wait until all is durable. Raises ``NotRecorded`` with the cause."""
        self._since_flush = 0
        try:
            self._client.flush(self._timeout_seconds)
        except FlushTimeout:
            # Given up before anybody asks what was sent: after the answer nothing may be.
            self._client.close(0.0)
            raise NotRecorded(self._trouble()) from None
        except DeliveryError as error:
            raise NotRecorded(str(error)) from None

    def _trouble(self) -> str:
        """Why nothing got through, asked of the daemon itself."""
        try:
            answer = ask_health(self._place, timeout_seconds=HEALTH_TIMEOUT_SECONDS)
        except DeliveryError as error:
            return str(error)
        reasons = [f"{reason.message}; {reason.remedy}" for reason in answer.reasons]
        told = "; ".join(reasons) or "it answers, but did not acknowledge in time"
        return f"tallymarkd is {answer.status}: {told}"

    @property
    def project(self) -> str:
        """What the events are recorded for."""
        return self._client.project

    @property
    def sent(self) -> int:
        """Events that have left this process, whether or not they arrived."""
        return self._client.stats().sent

    def outcome(self) -> Outcome:
        """What became of the events so far."""
        stats = self._client.stats()
        rejected = Counter(stats.rejected)
        # Never sent, since no daemon could take them.
        rejected.update({code: stats.dropped[code] for code in UNFIT if code in stats.dropped})
        durable = stats.acknowledged - stats.duplicate - sum(stats.rejected.values())
        return Outcome(durable, stats.duplicate, rejected)
