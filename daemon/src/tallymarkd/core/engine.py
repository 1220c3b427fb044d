"""The way of a batch through the daemon, between the sockets and the journal.

``publish`` → admission → committer → (durable) → books → ``Link.acknowledge``.
Everything runs on the loop thread except the committer, whose commits come
back through ``committed``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import msgspec

from tallymark.events import EVENT_BYTES_MAX
from tallymark.protocol.framing import FRAME_BYTES_MAX
from tallymark.protocol.messages import (
    BATCH_EVENTS_MAX,
    Hello,
    Limits,
    Nack,
    Publish,
    Skip,
    Welcome,
)
from tallymark.record import Kind
from tallymarkd._version import __version__
from tallymarkd.core.admission import Admission, Decision
from tallymarkd.core.books import Books, SkipNotice
from tallymarkd.core.committer import Committer, Ticket
from tallymarkd.core.entry import encode_entry
from tallymarkd.core.keys import Keys
from tallymarkd.core.post import PostResult, when_all
from tallymarkd.core.producers import (
    EngineSettings,
    Link,
    Producer,
    Producers,
    TransientError,
    agree,
)
from tallymarkd.core.weight import weigh

RETRY_SECONDS = 1.0

log = logging.getLogger("tallymarkd")


@dataclass(slots=True, eq=False)
class _Context:
    """What a ticket needs when it comes back."""

    producer: Producer | None = None
    link: Link | None = None
    decision: Decision | None = None
    size: int = 0
    done: Callable[[Exception | None], None] | None = None


class Engine:
    """Takes batches in, answers when they are durable. Loop thread only."""

    def __init__(
        self,
        books: Books,
        keys: Keys,
        admission: Admission,
        committer: Committer,
        settings: EngineSettings,
        *,
        note: Callable[[], None],
        spooled: Callable[[], set[str] | None] = set,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.books = books
        self._keys = keys
        self._admission = admission
        self._committer = committer
        self._settings = settings
        self._note = note
        self._clock_ns = clock_ns
        self._producers = Producers(books, settings, spooled)
        self._waiting: set[Link] = set()
        self.unacknowledged_bytes = 0
        self.disk_full: str | None = None

    def use(self, settings: EngineSettings) -> None:
        """Go on with other limits. What was taken under the old ones stays."""
        self._settings = self._producers.settings = settings

    @property
    def overloaded(self) -> bool:
        """Whether reading should pause until something is durable."""
        return self.unacknowledged_bytes >= self._settings.unacknowledged_total_bytes_max

    def wait_for_room(self, link: Link) -> None:
        """Have ``link.settled(0)`` called once the engine is not overloaded any more."""
        self._waiting.add(link)

    def room_for(self, projects: Collection[str]) -> bool:
        """Whether events of these projects can be taken, of all of them together."""
        return self._producers.room_for(projects)

    @property
    def project_count(self) -> int:
        """Projects there are, and those that what has come in may still make."""
        return len(self.books.projects) + len(self._producers.coming)

    # Conversations begin and end.

    def open(
        self, hello: Hello, uid: int, link: Link, ready: Callable[[Welcome], None]
    ) -> Producer | None:
        """Admit a client; ``ready`` is called once its Welcome can be given.

        Gives the producer, None for a client that only asks. Raises
        ``RefusedError`` for good and ``TransientError`` for now.
        """
        protocol = agree(hello)
        if not hello.producer:
            ready(self._welcome(protocol, 0))
            return None
        producer = self._producers.find(hello, uid)
        if producer.link is not None:
            self._waiting.discard(producer.link)
            producer.link.fence("a newer connection of the same producer has taken over")
        producer.link = link
        producer.welcome = lambda: ready(self._welcome(protocol, producer.durable_seq))
        self._welcome_settled(producer)
        return producer

    def _welcome(self, protocol: int, durable_seq: int) -> Welcome:
        return Welcome(
            protocol=protocol,
            server_id=self.books.server.server_id,
            durable_seq=durable_seq,
            limits=Limits(
                frame_bytes_max=FRAME_BYTES_MAX,
                event_bytes_max=EVENT_BYTES_MAX,
                batch_events_max=BATCH_EVENTS_MAX,
                unacknowledged_bytes_max=self._settings.unacknowledged_bytes_max,
            ),
            version=__version__,
        )

    def _welcome_settled(self, producer: Producer) -> None:
        """Welcome waits until what an older connection had handed in is settled."""
        if producer.welcome is not None and producer.settled:
            welcome, producer.welcome = producer.welcome, None
            producer.take_ack()
            welcome()

    def detach(self, producer: Producer, link: Link) -> None:
        """A conversation is over; what it handed in goes on to the journal."""
        self._waiting.discard(link)
        if producer.link is link:
            producer.link = None
            producer.welcome = None
            self._producers.forget_idle(producer)

    # Events come in.

    def publish(self, producer: Producer, link: Link, message: Publish, size: int) -> None:
        """Take a batch. Its answer comes through the link, when it is durable."""
        if not self._expected(producer, link, message.seq, message.seq, size):
            return
        decision = self._admission.decide(
            message.events,
            message.count,
            project=producer.project,
            uid=producer.uid,
            received_ns=self._clock_ns(),
        )
        self._keys.admit(decision.keys)
        producer.admitted_seq = message.seq
        context = _Context(producer, link, decision, size)
        self._submit(_batch_ticket(decision, context, producer.key, message.seq), size)

    def skip(self, producer: Producer, link: Link, message: Skip, size: int) -> None:
        """Move the mark over batches that can never come."""
        from_seq = message.from_seq
        if from_seq <= producer.admitted_seq < message.through_seq:
            # Of what a client cannot read any more, some may have arrived before.
            from_seq = producer.admitted_seq + 1
        if not self._expected(producer, link, from_seq, message.through_seq, size):
            return
        notice = SkipNotice(
            events=message.events,
            reason=message.reason,
            project=producer.project,
            uid=producer.uid,
        )
        producer.admitted_seq = message.through_seq
        ticket = Ticket(
            Kind.SKIP,
            msgspec.json.encode(notice),
            producer=producer.key,
            seq=message.through_seq,
            from_seq=from_seq,
            context=_Context(producer, link, None, size),
        )
        self._submit(ticket, size)

    def _expected(
        self, producer: Producer, link: Link, from_seq: int, through_seq: int, size: int
    ) -> bool:
        """Whether these seqs are the next; what is known or early is answered here."""
        if through_seq <= producer.admitted_seq:
            link.settled(size)
            if through_seq <= producer.durable_seq:
                link.acknowledge(producer.take_ack())
            return False
        if from_seq != producer.admitted_seq + 1:
            link.settled(size)
            expected = producer.admitted_seq + 1
            message = f"cannot take seq {from_seq}: {expected} is the next"
            link.nack(Nack(code="gap", seq=expected, message=message, retry_after_seconds=0.0))
            return False
        return True

    def goodbye(self, producer: Producer) -> None:
        """The client has seen everything acknowledged: retire its mark.

        Until that is durable it is on its way, back to 0: a Welcome waits for it.
        """
        if producer.settled and producer.durable_seq:
            producer.admitted_seq = 0
            context = _Context(producer)
            self._submit(Ticket(Kind.FORGET, b"", producer=producer.key, context=context), 0)

    def post(
        self,
        batches: Sequence[tuple[str, bytes, int]],
        uid: int,
        done: Callable[[PostResult | None, Exception | None], None],
    ) -> None:
        """Events without a seq: (project, msgpack array, count), all or nothing.

        ``done`` gets the result once everything is durable or refused, or the
        error for which it could not be kept.
        """
        now = self._clock_ns()
        decisions = [
            self._admission.decide(
                array, count, project=project, uid=uid, received_ns=now, key_by_id=True
            )
            for project, array, count in batches
        ]
        result = PostResult.of(decisions)
        if result.faults:
            done(result, None)
            return
        projects = [project for project, _, _ in batches]
        self._producers.reserve(projects)

        def all_done(failure: Exception | None) -> None:
            self._producers.release(projects)
            done(None if failure else result, failure)

        one_done = when_all(len(decisions), all_done)
        for decision in decisions:
            self._keys.admit(decision.keys)
            context = _Context(None, None, decision, _weight(decision), one_done)
            self._submit(_batch_ticket(decision, context), context.size)

    def probe(self, done: Callable[[Exception | None], None]) -> None:
        """Send a record without events through the whole commit path."""
        self._submit(Ticket(Kind.MARK, b"", context=_Context(done=done)), 0)

    def _submit(self, ticket: Ticket, size: int) -> None:
        self.unacknowledged_bytes += size
        self._committer.submit(ticket)

    # Commits come back.

    def committed(self, tickets: Sequence[Ticket]) -> None:
        """Answer everybody who waits for these, and take in what is durable.

        The answers go first, since somebody waits for them. Nobody can see the
        books between the two: both happen in one turn of the loop.
        """
        kept = [ticket for ticket in tickets if ticket.failed is None]
        self._settle(kept)
        if len(kept) < len(tickets):
            self._fail([ticket for ticket in tickets if ticket.failed is not None])
        else:
            self.disk_full = None
        for ticket in kept:
            self._keep(ticket)
        self._note()
        if self._waiting and not self.overloaded:
            waiting, self._waiting = self._waiting, set()
            for link in waiting:
                link.settled(0)

    def _settle(self, kept: Sequence[Ticket]) -> None:
        """Answer for what is durable: one Ack for each producer."""
        answer: dict[bytes, Producer] = {}
        for ticket in kept:
            context: _Context = ticket.context
            producer = context.producer
            if producer is not None:
                producer.durable_seq = ticket.seq
                if context.decision is not None:
                    producer.count(context.decision)
                answer[producer.key] = producer
            self._release(context, None)
        for producer in answer.values():
            if producer.link is not None and producer.welcome is None and producer.durable_seq:
                producer.link.acknowledge(producer.take_ack())
            self._welcome_settled(producer)
            self._producers.forget_idle(producer)

    def _release(self, context: _Context, error: Exception | None) -> None:
        """What a ticket held back is free again."""
        self.unacknowledged_bytes -= context.size
        if context.link is not None:
            context.link.settled(context.size)
        if context.done is not None:
            context.done(error)

    def _keep(self, ticket: Ticket) -> None:
        """Apply what is durable to the books."""
        decision: Decision | None = ticket.context.decision
        if decision is None:
            self.books.control(ticket)
            return
        self.books.batch(
            ticket.lsn,
            ticket.count,
            ticket.producer,
            ticket.seq,
            decision.entry,
            decision.batch,
        )
        if decision.keys:
            self._keys.settle(decision.keys, ticket.lsn)

    def _fail(self, tickets: Sequence[Ticket]) -> None:
        """The disk is full: go back, and let nothing overtake what was not kept.

        With the first of an epoch everything that is on its way has failed. Of
        the tickets that come back later nothing is left to do: their batches
        may have been sent again by then.
        """
        error = tickets[0].failed
        if self.disk_full is None:
            # The first says why; those behind it were not taken on its account.
            log.error("%s; clients will send again", error)
            self.disk_full = str(error)
        if any(ticket.epoch == self._committer.epoch for ticket in tickets):
            self._committer.epoch += 1
            self._keys.withdraw_all()
            for producer in self._producers.live():
                if not producer.settled:
                    self._go_back(producer)
        for ticket in tickets:
            self._release(ticket.context, ticket.failed)

    def _go_back(self, producer: Producer) -> None:
        producer.admitted_seq = producer.durable_seq
        if producer.link is not None and producer.welcome is None:
            producer.link.nack(
                Nack(
                    code="disk_full",
                    seq=producer.durable_seq + 1,
                    message=str(self.disk_full),
                    retry_after_seconds=RETRY_SECONDS,
                )
            )
        self._welcome_settled(producer)
        self._producers.forget_idle(producer)


def _weight(decision: Decision) -> int:
    return weigh(decision.entry.events, decision.entry.count)


def _batch_ticket(
    decision: Decision, context: _Context, producer: bytes = bytes(16), seq: int = 0
) -> Ticket:
    return Ticket(
        Kind.TOMBSTONE if decision.batch is None else Kind.BATCH,
        encode_entry(decision.entry),
        count=decision.entry.count,
        producer=producer,
        seq=seq,
        context=context,
    )


__all__ = ["Engine", "EngineSettings", "Link", "PostResult", "Producer", "TransientError"]
