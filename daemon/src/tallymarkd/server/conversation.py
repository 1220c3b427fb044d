"""One conversation with a client library, over the framed protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tallymark.errors import ProtocolError, RefusedError
from tallymark.protocol.connection import ServerConnection, State
from tallymark.protocol.messages import (
    Ack,
    ClientMessage,
    Goodbye,
    Health,
    HealthReport,
    Hello,
    Message,
    Nack,
    Publish,
    Query,
    Refused,
    Reply,
    Skip,
    Welcome,
)
from tallymarkd.core.engine import Producer, TransientError
from tallymarkd.core.weight import BATCH_BYTES, weigh
from tallymarkd.server.desk import LARGE_FRAME_BYTES, Condition, Desk
from tallymarkd.server.outlet import GOODBYE_SECONDS, Outlet

REPLY_BYTES_MAX = 256 * 1024
"""Piece of an answer in one frame."""

WRITE_BYTES_MAX = 64 * 1024 * 1024
"""Replies that a client does not read; beyond it the conversation ends."""

UNREAD = "the client does not read"
"""Why reading pauses by the client's own doing."""

QUESTIONS_MAX = 64
"""Questions that wait for the disk; beyond it nothing more is read."""


class Conversation(asyncio.Protocol):
    """Frames in, frames out. Reading pauses while too much is unacknowledged."""

    def __init__(self, desk: Desk, uid: int, on_close: Callable[[Conversation], None]) -> None:
        self._desk = desk
        self._uid = uid
        self._on_close = on_close
        self._connection = ServerConnection()
        self._transport: asyncio.Transport | None = None
        self._outlet: Outlet | None = None
        self._producer: Producer | None = None
        self._welcomed = False
        self._unacknowledged = 0
        self._questions = 0
        self._release: Callable[[], None] | None = None
        self._ended = False
        self._pauses: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._outlet = Outlet(transport, lambda: self._desk.settings.frame_timeout_seconds)
        self._watch()

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._connection.receive(data)
        except ProtocolError as error:
            self._refuse(Refused(code="protocol_error", message=str(error)))
            return
        if messages:
            self._stop_timer()
            # A stream of large frames must not hold on to memory others wait for.
            self._desk.pool.release(self)
            for message in messages:
                if self._gone:
                    return
                self._take(message)
        self._watch()

    def eof_received(self) -> bool:
        """Replies that are still due are sent before the socket closes."""
        self._ended = True
        if not self._owes():
            self._close()
            return False
        self._stop_timer()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._forget_frames()
        if self._outlet is not None:
            self._outlet.unwatch()
        if self._producer is not None:
            self._desk.engine.detach(self._producer, self)
        if self._release is not None:
            self._release()
        self._transport = None
        self._on_close(self)

    def pause_writing(self) -> None:
        self._pause(UNREAD)
        if self._outlet is not None:
            self._outlet.watch()

    def resume_writing(self) -> None:
        if self._outlet is not None and not self._gone:
            self._outlet.unwatch()
        self._resume(UNREAD)

    # Messages in.

    def _take(self, message: ClientMessage) -> None:
        if isinstance(message, Publish):
            self._publish(message)
        elif isinstance(message, Hello):
            self._hello(message)
        elif isinstance(message, Skip):
            if self._may_send():
                assert self._producer is not None
                self._unacknowledged += BATCH_BYTES
                self._desk.engine.skip(self._producer, self, message, BATCH_BYTES)
                self._hold_back()
        elif isinstance(message, Query):
            self._query(message)
        elif isinstance(message, Health):
            self._ask()
            self._desk.answers.health(message.deep, lambda c: self._healthy(message.id, c))
        elif isinstance(message, Goodbye):
            if self._producer is not None:
                self._desk.engine.goodbye(self._producer)
            self._ended = True
            self._close_when_done()

    def _hello(self, hello: Hello) -> None:
        try:
            self._producer = self._desk.engine.open(hello, self._uid, self, self._welcome)
        except RefusedError as error:
            self._refuse(Refused(code=error.code, message=str(error)))
        except TransientError as error:
            self._send(error.nack)
            self._close()

    def _welcome(self, welcome: Welcome) -> None:
        self._welcomed = True
        self._send(welcome)
        self._close_when_done()

    def _may_send(self) -> bool:
        """A client is connected once it has Welcome; what it sends before is not taken."""
        if self._welcomed:
            return True
        if self._connection.state is not State.CLOSED:
            self._refuse(
                Refused(code="protocol_error", message="cannot take events before the Welcome")
            )
        return False

    def _publish(self, message: Publish) -> None:
        if not self._may_send():
            return
        assert self._producer is not None
        size = weigh(message.events, message.count)
        self._unacknowledged += size
        self._desk.engine.publish(self._producer, self, message, size)
        self._hold_back()

    def _hold_back(self) -> None:
        """Read no more while too much is on its way to the journal."""
        if self._unacknowledged >= self._desk.settings.unacknowledged_bytes_max:
            self._pause("too much is unacknowledged")
        if self._desk.engine.overloaded:
            self._pause("the daemon is overloaded")
            self._desk.engine.wait_for_room(self)

    def _query(self, query: Query) -> None:
        answers = self._desk.answers
        if query.what == "hold":
            self._hold(query.id)
            return
        if query.what == "projects":
            body: bytes | None = answers.projects()
        else:
            body = answers.state(query.project)
        if body is None:
            error = f"cannot show project {query.project!r}: nothing is known of it"
            self._send(Reply(id=query.id, body=b"", error=error))
            return
        for at in range(0, len(body), REPLY_BYTES_MAX):
            piece = body[at : at + REPLY_BYTES_MAX]
            more = at + REPLY_BYTES_MAX < len(body)
            self._send(Reply(id=query.id, body=piece, more=more))

    def _hold(self, question: int) -> None:
        """History stays for as long as this conversation does."""

        def done(body: bytes, error: str) -> None:
            self._asked()
            self._send(Reply(id=question, body=body, error=error))
            self._close_when_done()

        self._ask()
        before, self._release = self._release, self._desk.answers.hold(self._uid, done)
        if before is not None:
            before()

    def _ask(self) -> None:
        self._questions += 1
        if self._questions >= QUESTIONS_MAX:
            self._pause("too many questions are open")

    def _asked(self) -> None:
        self._questions -= 1
        if self._pauses and self._questions < QUESTIONS_MAX:
            self._resume("too many questions are open")

    def _healthy(self, question: int, condition: Condition) -> None:
        self._asked()
        self._send(
            HealthReport(
                id=question,
                status=condition.status,
                reasons=condition.reasons,
                report=condition.report,
            )
        )
        self._close_when_done()

    # The engine's side (core.engine.Link).

    def acknowledge(self, ack: Ack) -> None:
        """See ``Link``."""
        self._send(ack)
        self._close_when_done()

    def nack(self, nack: Nack) -> None:
        """See ``Link``."""
        self._send(nack)
        # Not at once: the Ack of what was kept may follow in the same breath.
        asyncio.get_running_loop().call_soon(self._close_when_done)

    def fence(self, message: str) -> None:
        """See ``Link``."""
        self._producer = None
        self._refuse(Refused(code="fenced", message=message))

    def settled(self, count: int) -> None:
        """See ``Link``."""
        self._unacknowledged -= count
        if self._pauses:
            if self._unacknowledged < self._desk.settings.unacknowledged_bytes_max:
                self._resume("too much is unacknowledged")
            if not self._desk.engine.overloaded:
                self._resume("the daemon is overloaded")

    # Messages out.

    def say_goodbye(self, reason: str) -> None:
        """The daemon stops: everything due has been sent, say so and close."""
        if self._connection.state is not State.CLOSED:
            self._send(Goodbye(reason=reason))
        self._close(GOODBYE_SECONDS)

    def stop_reading(self) -> None:
        """Take nothing more; what was taken is still answered."""
        self._pause("the daemon is stopping")

    def _send(self, message: Message) -> None:
        if self._transport is None or self._outlet is None or self._transport.is_closing():
            return
        self._outlet.write(self._connection.send(message))
        if self._transport.get_write_buffer_size() > WRITE_BYTES_MAX:
            self._transport.abort()

    @property
    def _gone(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _refuse(self, refused: Refused) -> None:
        self._send(refused)
        self._close()

    def _close(self, seconds: float | None = None) -> None:
        self._stop_timer()
        self._forget_frames()
        if self._outlet is not None:
            self._outlet.close(seconds)

    def _forget_frames(self) -> None:
        """Nothing more is read: what came of a frame goes, and with it what it reserved."""
        self._connection = ServerConnection()
        self._connection.close()
        self._desk.pool.release(self)

    def _owes(self) -> bool:
        """Whether something the client handed in is not answered yet."""
        waiting = self._producer is not None and not self._welcomed
        return waiting or self._unacknowledged > 0 or self._questions > 0

    def _close_when_done(self) -> None:
        if self._ended and not self._owes():
            self._close()

    # Reading, and how long it may take.

    def _pause(self, why: str) -> None:
        if not self._pauses and self._transport is not None:
            self._transport.pause_reading()
        self._pauses.add(why)
        if why != UNREAD:
            self._stop_timer()

    def _resume(self, why: str) -> None:
        self._pauses.discard(why)
        if not self._pauses and self._transport is not None:
            self._transport.resume_reading()
        if self._pauses <= {UNREAD} and not self._gone:
            self._watch()

    def _watch(self) -> None:
        """A frame that has begun must be finished in time.

        While we do not read it does not count, unless that is the client's own doing.
        """
        connection = self._connection
        missing = connection.missing_bytes
        unfinished = connection.incomplete or connection.state in (State.PREFACE, State.HELLO)
        if not unfinished:
            self._stop_timer()
            self._desk.pool.release(self)
            return
        if missing > LARGE_FRAME_BYTES:
            reserved = self._desk.pool.reserve(self, missing, lambda: self._resume("no memory"))
            if not reserved:
                self._pause("no memory")
        if self._pauses <= {UNREAD} and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._desk.settings.frame_timeout_seconds, self._late)

    def _late(self) -> None:
        self._timer = None
        seconds = self._desk.settings.frame_timeout_seconds
        self._refuse(
            Refused(
                code="protocol_error",
                message=f"cannot wait longer: a frame was not finished within {seconds:g} s",
            )
        )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def farewell(reason: str) -> bytes:
    """The Goodbye of a conversation that is over before its Hello."""
    return ServerConnection().send(Goodbye(reason=reason))
