"""The two sides of one conversation, without I/O.

::

    client   start() ──▶ WAITING ──Welcome──▶ OPEN ──Goodbye──▶ CLOSED
    server   PREFACE ──C1 54 4D 01──▶ HELLO ──Hello──▶ OPEN ──Goodbye──▶ CLOSED

Bytes go in through ``receive``, messages come out. Anything the state does
not allow raises ``ProtocolError``, after which the connection is CLOSED.
Not thread-safe.
"""

from __future__ import annotations

import enum
from typing import Generic, TypeVar

from tallymark.errors import ProtocolError
from tallymark.protocol import messages
from tallymark.protocol.framing import PREFACE, FrameDecoder, frame
from tallymark.protocol.messages import (
    ClientMessage,
    Goodbye,
    Health,
    Hello,
    Message,
    Publish,
    Query,
    Refused,
    ServerMessage,
    Skip,
    Welcome,
)

M = TypeVar("M")


class State(enum.Enum):
    """Where a conversation stands."""

    PREFACE = "preface"
    HELLO = "hello"
    WAITING = "waiting"
    OPEN = "open"
    CLOSED = "closed"


class _Side(Generic[M]):
    """What both sides share: a state, and bytes cut into decoded messages."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._frames = FrameDecoder()

    @property
    def incomplete(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._frames.buffered_bytes > 0

    @property
    def missing_bytes(self) -> int:
        """Bytes still to come of the frame that has begun."""
        return self._frames.missing_bytes

    def close(self) -> None:
        """Take nothing more."""
        self.state = State.CLOSED

    def _decode(self, payload: bytes) -> M:
        raise NotImplementedError

    def _accept(self, message: M) -> None:
        raise NotImplementedError

    def _receive(self, data: bytes | memoryview) -> list[M]:
        found: list[M] = []
        try:
            for payload in self._frames.feed(data):
                if self.state is State.CLOSED:
                    raise ProtocolError("cannot take a message after the conversation's end")
                message = self._decode(payload)
                self._accept(message)
                found.append(message)
        except ProtocolError:
            self.state = State.CLOSED
            raise
        return found


class ServerConnection(_Side[ClientMessage]):
    """The daemon's side of one conversation."""

    def __init__(self) -> None:
        super().__init__(State.PREFACE)
        self._preface = b""
        self.hello: Hello | None = None

    def receive(self, data: bytes | memoryview) -> list[ClientMessage]:
        """Messages completed by these bytes; the first ever is the Hello.

        Raises ``ProtocolError``. Messages that were complete before the fault
        in the same bytes are lost with it: they were not acknowledged.
        """
        if self.state is State.PREFACE:
            data = self._take_preface(data)
        return self._receive(data) if data else []

    def _take_preface(self, data: bytes | memoryview) -> bytes:
        self._preface += bytes(data)
        head, rest = self._preface[: len(PREFACE)], self._preface[len(PREFACE) :]
        if head != PREFACE[: len(head)]:
            self.state = State.CLOSED
            raise ProtocolError("cannot read the preface: the first bytes are not C1 54 4D 01")
        if len(head) == len(PREFACE):
            self.state = State.HELLO
            self._preface = b""
            return rest
        return b""

    def _decode(self, payload: bytes) -> ClientMessage:
        return messages.decode_client(payload)

    def _accept(self, message: ClientMessage) -> None:
        if self.state is State.HELLO:
            if not isinstance(message, Hello):
                raise ProtocolError("cannot begin without a Hello")
            self.hello = message
            self.state = State.OPEN
        elif isinstance(message, Hello):
            raise ProtocolError("cannot take a second Hello")
        elif isinstance(message, Publish | Skip):
            if self.hello is None or not self.hello.producer:
                raise ProtocolError("cannot take events: the Hello named no producer")
            if isinstance(message, Skip) and message.from_seq > message.through_seq:
                raise ProtocolError("cannot skip backwards")
        elif isinstance(message, Goodbye):
            self.state = State.CLOSED

    def send(self, message: Message) -> bytes:
        """The bytes of one message to the client."""
        return frame(messages.encode(message))


class ClientConnection(_Side[ServerMessage]):
    """A client's side of one conversation."""

    def __init__(self) -> None:
        super().__init__(State.WAITING)
        self.welcome: Welcome | None = None

    def start(self, *, producer: str = "", project: str = "", client: str = "") -> bytes:
        """Preface and Hello, the first bytes to send."""
        hello = Hello(
            protocol_min=messages.PROTOCOL_MIN,
            protocol_max=messages.PROTOCOL,
            producer=producer,
            project=project,
            client=client,
        )
        return PREFACE + frame(messages.encode(hello))

    def send(self, message: Query | Health | Goodbye) -> bytes:
        """The bytes of a question or a Goodbye. Batches are framed by the Outbox."""
        if self.state is not State.OPEN:
            raise ProtocolError("cannot send before the Welcome or after the end")
        return frame(messages.encode(message))

    def receive(self, data: bytes | memoryview) -> list[ServerMessage]:
        """Messages completed by these bytes. Raises ``ProtocolError``."""
        return self._receive(data)

    def _decode(self, payload: bytes) -> ServerMessage:
        return messages.decode_server(payload)

    def _accept(self, message: ServerMessage) -> None:
        if isinstance(message, Welcome):
            if self.state is not State.WAITING:
                raise ProtocolError("cannot take a second Welcome")
            self.welcome = message
            self.state = State.OPEN
        elif isinstance(message, Refused | Goodbye):
            self.state = State.CLOSED
        elif self.state is State.WAITING and not isinstance(message, messages.Nack):
            raise ProtocolError("cannot begin without a Welcome")
