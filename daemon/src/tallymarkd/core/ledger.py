"""What the daemon remembers beside the projects: marks, ledger, losses.

``server.json`` holds it, sealed (storage/sealed.py).
"""

from __future__ import annotations

from collections import Counter

import msgspec

from tallymarkd.core.entry import Verdict
from tallymarkd.storage.sealed import SealedDocument, decode_document, encode_document
from tallymarkd.text import span

SERVER_FORMAT = 1

SKIP_REASONS_MAX = 50
"""Reasons of clients that are counted one by one; the others are counted together."""

OTHER_REASONS = "other"

LOSSES_MAX = 100
"""Losses named one by one; the ledger's count goes on beyond."""


class Mark(msgspec.Struct, array_like=True):
    """The highest durable seq of a producer, what it is bound to, when it was last
    heard of, in seconds of the daemon's running time, and what became of its events."""

    seq: int
    project: str
    uid: int
    contact_seconds: float = 0.0
    received: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    skipped: int = 0


class Loss(msgspec.Struct, kw_only=True):
    """Events that were acknowledged or announced and are not there."""

    reason: str
    producer: str = ""
    from_seq: int = 0
    through_seq: int = 0
    events: int = 0
    from_lsn: int = 0
    through_lsn: int = 0

    def text(self) -> str:
        """What is missing, in a person's words."""
        parts = [events_text(self.events, exact=bool(self.producer))]
        if self.producer:
            parts.append(f"of producer {self.producer}")
            if self.through_seq:
                parts.append(f"({span('seq', 'seq', self.from_seq, self.through_seq)})")
        if 0 < self.from_lsn <= self.through_lsn:
            parts.append(f"at {span('number', 'numbers', self.from_lsn, self.through_lsn)}")
        return f"{' '.join(parts)}: {self.reason}"


def events_text(events: int, *, exact: bool) -> str:
    """How many; 0 where nobody knows."""
    if not events:
        return "an unknown number of events"
    return f"{'' if exact else 'at most '}{events} {'event' if events == 1 else 'events'}"


class Ledger(msgspec.Struct, kw_only=True):
    """Counts of events. ``received`` is without resends: stored, duplicate and
    rejected. ``skipped`` were announced by clients as lost before they were
    sent, ``skips`` are the same by the reason they gave; ``lost`` were damaged on
    disk."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: dict[str, int] = {}
    skipped: int = 0
    skips: dict[str, int] = {}
    lost: int = 0
    losses: list[Loss] = []

    @property
    def adds_up(self) -> bool:
        """Whether every event that was received has a verdict, and every skip a reason."""
        verdicts = self.stored + self.duplicate + sum(self.rejected.values())
        return self.received == verdicts and self.skipped == sum(self.skips.values())


class ServerState(msgspec.Struct, kw_only=True):
    """What the daemon remembers beside the projects.

    Through ``retired_lsn`` the journal may have been retired: when this was written,
    every generation of every state file had what its project had there.
    """

    server_id: str
    applied_lsn: int = 0
    retired_lsn: int = 0
    running_seconds: float = 0.0
    marks: dict[str, Mark] = {}
    last_lsn: dict[str, int] = {}
    first_lsn: dict[str, int] = {}
    ledger: Ledger = msgspec.field(default_factory=Ledger)


def count_verdicts(ledger: Ledger, mark: Mark | None, verdicts: bytes) -> None:
    """Add a batch's verdicts to the ledger, and to its producer's mark."""
    for verdict, count in Counter(verdicts).items():
        if verdict > Verdict.DUPLICATE:
            code = Verdict(verdict).code
            ledger.rejected[code] = ledger.rejected.get(code, 0) + count
            if mark is not None:
                mark.rejected += count
        for counted in (ledger, mark):
            if counted is not None:
                counted.received += count
                counted.stored += count if verdict == Verdict.STORED else 0
                counted.duplicate += count if verdict == Verdict.DUPLICATE else 0


class _ServerFile(SealedDocument, kw_only=True):
    server: ServerState


def encode_server(server: ServerState) -> bytes:
    """The bytes of ``server.json``."""
    return encode_document(_ServerFile(format=SERVER_FORMAT, server=server))


def decode_server(body: bytes) -> ServerState:
    """Reads ``server.json``. Raises ``DamagedError``, ``NewerFormatError``."""
    return decode_document(body, _ServerFile, SERVER_FORMAT).server
