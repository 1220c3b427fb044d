"""Events to the daemon, and what became of them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tallymark import Client, paths
from tallymark.errors import DeliveryError, FlushTimeout, TallymarkError
from tallymarkd.cli.asking import HEALTH_TIMEOUT_SECONDS, ask_health
from tallymarkd.cli.place import Place

PENDING_EVENTS_MAX = 2000
"""Events on their way at one time: what is in memory stays small."""

UNFIT = ("unencodable", "too_large", "not_an_event")
"""What the library drops because of the event itself."""

GOODBYE_TIMEOUT_SECONDS = 0.2

LOOK_SECONDS = 0.02

CANNOT_SPOOL = "cannot spool"
"""How the library's warnings begin when it has no place to keep events."""


class NotRecorded(TallymarkError):
    """Not everything became durable, or was spooled, in the time given."""


@dataclass
class Outcome:
    """What became of events."""

    stored: int = 0
    duplicate: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    spooled: int = 0
    """On disk, to be delivered when the daemon can be reached."""

    @property
    def refused(self) -> int:
        """Events that were rejected."""
        return self.rejected.total()

    def add(self, other: Outcome) -> None:
        """Take in what became of other events."""
        self.stored += other.stored
        self.duplicate += other.duplicate
        self.rejected += other.rejected
        self.spooled += other.spooled

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stored": self.stored,
            "duplicate": self.duplicate,
            "rejected": dict(self.rejected),
            "spooled": self.spooled,
        }


class _Heard(logging.Handler):
    """Keeps why nothing can be spooled; what else the library logs, the command tells."""

    spool_trouble = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith(CANNOT_SPOOL):
            self.spool_trouble = text.partition(";")[0]


class Recorder:
    """One producer for one project. Use it in a ``with`` block.

    What cannot be delivered is spooled; with ``spools=False`` that is not enough, and
    ``settle`` waits for the daemon.
    """

    def __init__(
        self,
        place: Place,
        project: str,
        timeout_seconds: float,
        *,
        source: str = "",
        spools: bool = True,
    ) -> None:
        # What it logs is told by the command, in its own words.
        self._heard = _Heard()
        log = logging.getLogger("tallymark")
        log.addHandler(self._heard)
        log.propagate = False
        self._place = place
        self._timeout_seconds = timeout_seconds
        self._spools = spools
        self.spool_dir: Path = paths.spool_dir(None, place.env)
        self._client = Client(
            project,
            socket=place.explicit_socket(),
            source=source,
            spool_dir=self.spool_dir,
            queue_events_max=2 * PENDING_EVENTS_MAX,
        )
        self._since_flush = 0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        # What was not settled is given up: the command has said so, or is about to.
        # What is spooled does not wait for a daemon any more.
        done = exc[0] is None and not self._client.stats().spooled
        self._client.close(GOODBYE_TIMEOUT_SECONDS if done else 0.0)
        logging.getLogger("tallymark").removeHandler(self._heard)

    def put(self, event: Any) -> None:
        """Hand over one event; waits when much is on its way. Raises ``NotRecorded``."""
        self._client.emit(event)
        self._since_flush += 1
        if self._since_flush >= PENDING_EVENTS_MAX:
            self.settle()

    def settle(self) -> None:
        """Wait until all is durable, or spooled. Raises ``NotRecorded`` with the cause."""
        self._since_flush = 0
        deadline = time.monotonic() + self._timeout_seconds
        try:
            self._client.flush(self._timeout_seconds)
        except FlushTimeout:
            # Given up before anybody asks what was sent: after the answer nothing may be.
            # What is in memory is spooled by that.
            self._client.close(0.0)
            if not self._spools or self._in_memory:
                raise NotRecorded(self._causes()) from None
        except DeliveryError as error:
            raise NotRecorded(str(error)) from None
        if not self._spools and not self._delivered_by(deadline):
            raise NotRecorded(self.trouble())

    @property
    def _in_memory(self) -> bool:
        """Whether anything is neither durable nor spooled."""
        stats = self._client.stats()
        return stats.queued + stats.unacknowledged > 0

    def _delivered_by(self, deadline: float) -> bool:
        """Wait until the daemon has what was spooled; whether it has."""
        pause = threading.Event()
        while self._client.stats().spooled:
            if time.monotonic() >= deadline:
                return False
            pause.wait(LOOK_SECONDS)
        return True

    def _causes(self) -> str:
        return "; ".join(filter(None, (self.trouble(), self._heard.spool_trouble)))

    @property
    def may_be_recorded(self) -> bool:
        """Whether events that are not settled may have been sent, or spooled, after all."""
        return self.sent > 0 or not self._heard.spool_trouble

    def trouble(self) -> str:
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
        return Outcome(durable, stats.duplicate, rejected, stats.spooled)
