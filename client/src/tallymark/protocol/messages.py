"""Every message of the protocol, as a tagged msgspec Struct.

A message is a msgpack map whose ``type`` names it. Fields that a side does
not know are ignored, so that fields can be added without a new version.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tallymark.errors import ProtocolError
from tallymark.protocol.nesting import without_deep_values

PROTOCOL = 1
"""The current protocol version."""

PROTOCOL_MIN = 1
"""The oldest protocol version still spoken."""

BATCH_EVENTS_MAX = 4096
"""Most events of one Publish. Part of the protocol: never configured lower."""

SEQ_MAX = 2**63 - 1

Seq = Annotated[int, Meta(ge=1, le=SEQ_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
BatchCount = Annotated[int, Meta(ge=1, le=BATCH_EVENTS_MAX)]
Name = Annotated[str, Meta(max_length=512)]

NackCode = Literal["disk_full", "overloaded", "gap", "warming_up"]
"""Transient refusals: the outcome is unknown, send the same again later. A newer daemon
may have others, which mean the same to a client."""

RefusalCode = Literal[
    "unsupported_protocol", "wrong_user", "wrong_project", "protocol_error", "fenced"
]
"""Permanent refusals of a conversation; it is closed after one. A newer daemon may have
others, which are as final."""

HealthStatus = Literal["ok", "degraded", "failing"]


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Base of every message."""


class Limits(msgspec.Struct, kw_only=True, frozen=True):
    """What the daemon accepts; never less than the protocol's own limits."""

    frame_bytes_max: int
    event_bytes_max: int
    batch_events_max: int
    unacknowledged_bytes_max: int


# From the client.


class Hello(Message, tag="hello"):
    """First message. Without a ``producer`` the conversation can only ask."""

    protocol_min: int
    protocol_max: int
    producer: Name = ""
    project: Name = ""
    client: Name = ""


class Publish(Message, tag="publish"):
    """One frozen batch. A seq never changes its content."""

    seq: Seq
    count: BatchCount
    events: msgspec.Raw


class Skip(Message, tag="skip"):
    """Batches that can never come: moves the mark over them, and is counted as loss."""

    from_seq: Seq
    through_seq: Seq
    events: Count
    reason: Name


class Query(Message, tag="query"):
    """A question. ``what`` is ``projects``, ``state`` (of ``project``), or ``hold``:
    how far is everything durable? No history is retired then until the conversation ends."""

    id: Count
    what: Literal["projects", "state", "hold"]
    project: Name = ""


class Health(Message, tag="health"):
    """Asks how the daemon is. ``deep`` writes a probe through the commit path."""

    id: Count
    deep: bool = False


class Goodbye(Message, tag="goodbye"):
    """From a client: all is acknowledged, forget my mark. From the daemon: it stops."""

    reason: str = ""


# From the daemon.


class Welcome(Message, tag="welcome"):
    """The conversation is open. Everything through ``durable_seq`` is durable."""

    protocol: int
    server_id: str
    durable_seq: Count
    limits: Limits
    version: str = ""


class Ack(Message, tag="ack"):
    """Everything through ``through_seq`` is durable. Counts are of events since
    the Ack before, ``reasons`` of rejected events by code."""

    through_seq: Count
    stored: Count = 0
    duplicate: Count = 0
    rejected: Count = 0
    reasons: dict[str, int] = {}


class Nack(Message, tag="nack"):
    """Not now: go back to ``seq`` and send it and what follows again later."""

    code: Name
    seq: Count
    message: str
    retry_after_seconds: Annotated[float, Meta(ge=0, le=3600)] = 1.0


class Refused(Message, tag="refused"):
    """The conversation is refused for good and is closed after this."""

    code: Name
    message: str


class Reply(Message, tag="reply"):
    """A piece of the answer to a Query: JSON, complete when ``more`` is false."""

    id: Count
    body: bytes
    more: bool = False
    error: str = ""


class Reason(msgspec.Struct, kw_only=True, frozen=True):
    """One cause of a status that is not ok, and what to do about it."""

    code: str
    message: str
    remedy: str


class HealthReport(Message, tag="health_report"):
    """The answer to Health."""

    id: Count
    status: HealthStatus
    reasons: list[Reason] = []
    report: dict[str, Any] = {}


ClientMessage = Hello | Publish | Skip | Query | Health | Goodbye
ServerMessage = Welcome | Ack | Nack | Refused | Reply | HealthReport | Goodbye

_encoder = msgspec.msgpack.Encoder()
_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_server_decoder: msgspec.msgpack.Decoder[ServerMessage] = msgspec.msgpack.Decoder(ServerMessage)


def encode(message: Message) -> bytes:
    """The message's bytes, without the frame around them."""
    return _encoder.encode(message)


def decode_client(payload: bytes | memoryview) -> ClientMessage:
    """A message from a client. Raises ``ProtocolError``."""
    try:
        try:
            return _client_decoder.decode(payload)
        except RecursionError:
            # One event of a batch may be to blame: its neighbours must not suffer.
            return _client_decoder.decode(without_deep_values(payload))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"cannot understand a message of the client: {error}") from None


def decode_server(payload: bytes | memoryview) -> ServerMessage:
    """A message from the daemon. Raises ``ProtocolError``."""
    try:
        return _server_decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"cannot understand a message of the daemon: {error}") from None
