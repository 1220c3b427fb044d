"""Producers: who they are, what they are bound to, how far each has come."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from tallymark.errors import RefusedError
from tallymark.protocol.messages import PROTOCOL, PROTOCOL_MIN, Ack, Hello, Nack
from tallymarkd.core.admission import Decision
from tallymarkd.core.books import Books
from tallymarkd.core.entry import Verdict

OVERLOADED_RETRY_SECONDS = 60.0
SECONDS_PER_DAY = 86_400


class Link(Protocol):
    """What the engine needs of a conversation. All calls on the loop thread."""

    def acknowledge(self, ack: Ack) -> None:
        """Tell the client; nothing may be raised."""

    def nack(self, nack: Nack) -> None:
        """Tell the client to come again."""

    def fence(self, message: str) -> None:
        """A newer connection of the same producer has taken over."""

    def settled(self, count: int) -> None:
        """So many bytes that this conversation had handed in are settled."""


class TransientError(Exception):
    """Not now; the conversation ends with this Nack."""

    def __init__(self, nack: Nack) -> None:
        super().__init__(nack.message)
        self.nack = nack


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Limits of what the engine takes on."""

    projects_max: int
    producers_max: int
    mark_days_max: int
    unacknowledged_bytes_max: int
    unacknowledged_total_bytes_max: int


@dataclass(slots=True, eq=False)
class Producer:
    """A producer that has a connection, or something on its way to the journal."""

    name: str
    key: bytes
    project: str
    uid: int
    durable_seq: int
    admitted_seq: int
    link: Link | None = None
    welcome: Callable[[], None] | None = None
    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether nothing of it is on its way."""
        return self.admitted_seq == self.durable_seq

    def take_ack(self) -> Ack:
        """The Ack that is due, with the counts since the one before."""
        ack = Ack(
            through_seq=self.durable_seq,
            stored=self.stored,
            duplicate=self.duplicate,
            rejected=self.rejected,
            reasons=self.reasons,
        )
        self.stored = self.duplicate = self.rejected = 0
        self.reasons = {}
        return ack

    def count(self, decision: Decision) -> None:
        """Add a durable batch's verdicts to the next Ack."""
        stored, duplicate, rejected = decision.counts
        self.stored += stored
        self.duplicate += duplicate
        self.rejected += rejected
        if rejected:
            for value in decision.entry.verdicts:
                if value > Verdict.DUPLICATE:
                    code = Verdict(value).code
                    self.reasons[code] = self.reasons.get(code, 0) + 1


class Producers:
    """Producers that have a connection, or something on its way to the journal."""

    def __init__(
        self,
        books: Books,
        settings: EngineSettings,
        spooled: Callable[[], set[str] | None] = set,
    ) -> None:
        """``spooled`` gives the producers whose spools wait, None when nobody can tell:
        without its mark, what a spool holds and the journal too would count twice."""
        self._books = books
        self._spooled = spooled
        self.settings = settings
        self._known: dict[bytes, Producer] = {}
        self._reserved: Counter[str] = Counter()

    def find(self, hello: Hello, uid: int) -> Producer:
        """The producer of a Hello, made if it is new.

        Raises ``RefusedError`` for good and ``TransientError`` for now.
        """
        try:
            key = uuid.UUID(hello.producer)
        except ValueError:
            raise RefusedError(
                "protocol_error", f"cannot use {hello.producer!r} as a producer: it is no UUID"
            ) from None
        if not hello.project:
            raise RefusedError("wrong_project", "cannot take events without a project")
        mark = self._books.server.marks.get(str(key))
        known = self._known.get(key.bytes)
        bound = mark or known
        if bound is None:
            self._refuse_over_producers_max()
        elif bound.uid != uid:
            raise RefusedError("wrong_user", "cannot use this producer: it is another user's")
        elif bound.project != hello.project:
            raise RefusedError(
                "wrong_project",
                f"cannot use this producer for {hello.project!r}: it is bound to {bound.project!r}",
            )
        if not self.room_for((hello.project,)):
            raise TransientError(_overloaded(f"there are {self.settings.projects_max} projects"))
        if mark is not None:
            mark.contact_seconds = self._books.server.running_seconds
        if known is None:
            seq = mark.seq if mark is not None else 0
            known = Producer(str(key), key.bytes, hello.project, uid, seq, seq)
            self._known[key.bytes] = known
        return known

    def _refuse_over_producers_max(self) -> None:
        marks = self._books.server.marks
        if len(marks) >= self.settings.producers_max:
            live = {producer.name for producer in self._known.values()}
            spooled = self._spooled()
            if spooled is not None:
                old_seconds = self.settings.mark_days_max * SECONDS_PER_DAY
                self._books.expire_marks(old_seconds, live | spooled)
            if len(marks) >= self.settings.producers_max:
                raise TransientError(
                    _overloaded(f"{self.settings.producers_max} producers are known")
                )

    def room_for(self, projects: Collection[str]) -> bool:
        """Whether all of these can have events now; those that are new may be too many."""
        new = {project for project in projects if project not in self._books.projects}
        if not new:
            return True
        coming = self.coming
        taken = len(self._books.projects) + len(coming | new)
        return new <= coming or taken <= self.settings.projects_max

    @property
    def coming(self) -> set[str]:
        """New projects for which there must be room: those of connected producers, which
        may send at any time, and those whose first events are on their way."""
        names = {producer.project for producer in self._known.values()}
        return (names | self._reserved.keys()) - self._books.projects.keys()

    def reserve(self, projects: Iterable[str]) -> None:
        """Events of these are on their way that belong to no producer."""
        self._reserved.update(projects)

    def release(self, projects: Iterable[str]) -> None:
        """They have arrived, or never will."""
        for project in projects:
            self._reserved[project] -= 1
            if not self._reserved[project]:
                del self._reserved[project]

    def live(self) -> list[Producer]:
        """All of them."""
        return list(self._known.values())

    def forget_idle(self, producer: Producer) -> None:
        """Let go of one that has no connection and nothing on its way."""
        if producer.link is None and producer.settled:
            self._known.pop(producer.key, None)


def agree(hello: Hello) -> int:
    """The protocol to speak with this client. Raises ``RefusedError``."""
    if hello.protocol_min > PROTOCOL or hello.protocol_max < PROTOCOL_MIN:
        raise RefusedError(
            "unsupported_protocol",
            f"cannot speak protocol {hello.protocol_min} to {hello.protocol_max}: "
            f"this daemon speaks {PROTOCOL_MIN} to {PROTOCOL}",
        )
    return min(hello.protocol_max, PROTOCOL)


def _overloaded(what: str) -> Nack:
    return Nack(
        code="overloaded",
        seq=1,
        message=f"cannot take a new producer: {what}",
        retry_after_seconds=OVERLOADED_RETRY_SECONDS,
    )
