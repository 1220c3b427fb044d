"""Any chunking of a valid stream gives the same messages; nothing gives another exception."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tallymark.errors import ProtocolError
from tallymark.protocol import messages
from tallymark.protocol.connection import ClientConnection, ServerConnection
from tallymark.protocol.framing import PREFACE, frame
from tallymark.protocol.messages import (
    BATCH_EVENTS_MAX,
    SEQ_MAX,
    Ack,
    Goodbye,
    Health,
    HealthReport,
    Hello,
    Limits,
    Message,
    Nack,
    Publish,
    Query,
    Reason,
    Reply,
    Skip,
    Welcome,
)

names = st.text(max_size=20)
counts = st.integers(0, 2**53)
seqs = st.integers(1, SEQ_MAX)
plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
events = st.lists(plain, max_size=4).map(lambda found: msgspec.Raw(msgspec.msgpack.encode(found)))

from_client = st.one_of(
    st.builds(Publish, seq=seqs, count=st.integers(1, BATCH_EVENTS_MAX), events=events),
    st.builds(Skip, from_seq=st.just(1), through_seq=seqs, events=counts, reason=names),
    st.builds(Query, id=counts, what=st.sampled_from(["projects", "state"]), project=names),
    st.builds(Health, id=counts, deep=st.booleans()),
)
from_daemon = st.one_of(
    st.builds(
        Ack,
        through_seq=counts,
        stored=counts,
        duplicate=counts,
        rejected=counts,
        reasons=st.dictionaries(names, st.integers(0, 9), max_size=3),
    ),
    st.builds(
        Nack,
        code=st.sampled_from(["disk_full", "overloaded", "gap", "warming_up"]),
        seq=counts,
        message=names,
        retry_after_seconds=st.floats(0, 3600),
    ),
    st.builds(Reply, id=counts, body=st.binary(max_size=50), more=st.booleans(), error=names),
    st.builds(
        HealthReport,
        id=counts,
        status=st.sampled_from(["ok", "degraded", "failing"]),
        reasons=st.lists(st.builds(Reason, code=names, message=names, remedy=names), max_size=2),
        report=st.dictionaries(names, plain, max_size=3),
    ),
)
HELLO = Hello(protocol_min=1, protocol_max=1, producer="p", project="x")
WELCOME = Welcome(
    protocol=1,
    server_id="s",
    durable_seq=0,
    limits=Limits(
        frame_bytes_max=1, event_bytes_max=2, batch_events_max=3, unacknowledged_bytes_max=4
    ),
)


def wire(sent: list[Message]) -> bytes:
    return b"".join(frame(messages.encode(message)) for message in sent)


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    """The stream in pieces, some of them empty."""
    places = sorted(place % (len(stream) + 1) for place in at)
    edges = [0, *places, len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


cuts = st.lists(st.integers(0, 10_000), max_size=12)


@given(st.lists(from_client, max_size=6), st.booleans(), cuts)
def test_any_chunking_of_a_clients_stream(sent: list[Message], leaves: bool, at: list[int]) -> None:
    said = [HELLO, *sent, *([Goodbye()] if leaves else [])]
    connection = ServerConnection()
    got = [m for piece in cut(PREFACE + wire(said), at) for m in connection.receive(piece)]
    assert got == said


@given(st.lists(from_daemon, max_size=6), st.booleans(), cuts)
def test_any_chunking_of_a_daemons_stream(sent: list[Message], leaves: bool, at: list[int]) -> None:
    said = [WELCOME, *sent, *([Goodbye()] if leaves else [])]
    connection = ClientConnection()
    got = [m for piece in cut(wire(said), at) for m in connection.receive(piece)]
    assert got == said


def feed(connection: ServerConnection | ClientConnection, stream: bytes, at: list[int]) -> bool:
    """Whether all of it was taken. Any exception but ``ProtocolError`` gets out."""
    try:
        for piece in cut(stream, at):
            connection.receive(piece)
    except ProtocolError:
        return False
    return True


@given(st.binary(max_size=200), st.booleans(), cuts)
def test_random_bytes_give_a_protocol_error_or_nothing(
    noise: bytes, greeted: bool, at: list[int]
) -> None:
    feed(ServerConnection(), (PREFACE + wire([HELLO]) if greeted else b"") + noise, at)
    feed(ClientConnection(), (wire([WELCOME]) if greeted else b"") + noise, at)


@given(st.binary(min_size=1, max_size=200), cuts)
def test_a_frame_of_random_bytes_is_refused_by_both(noise: bytes, at: list[int]) -> None:
    # No msgpack map of a message can be hit by chance in so few bytes.
    assert not feed(ServerConnection(), PREFACE + wire([HELLO]) + frame(noise), at)
    assert not feed(ClientConnection(), wire([WELCOME]) + frame(noise), at)


@given(
    st.lists(from_client, min_size=1, max_size=4),
    st.lists(from_daemon, min_size=1, max_size=4),
    st.integers(0, 10_000),
    st.integers(1, 255),
    cuts,
)
def test_one_changed_byte_gives_a_protocol_error_or_other_messages(
    asked: list[Message], answered: list[Message], place: int, change: int, at: list[int]
) -> None:
    for connection, stream in (
        (ServerConnection(), PREFACE + wire([HELLO, *asked])),
        (ClientConnection(), wire([WELCOME, *answered])),
    ):
        broken = bytearray(stream)
        broken[place % len(stream)] ^= change
        feed(connection, bytes(broken), at)


class Surely(msgspec.Struct, tag_field="type", tag="health_report"):
    """A report with a value of any shape, also of those that no message has."""

    id: int
    status: str
    report: Any


hostile = st.one_of(
    st.binary(max_size=30).map(lambda data: msgspec.msgpack.Ext(-1, data)),
    st.binary(max_size=30).map(lambda data: msgspec.msgpack.Ext(5, data)),
    st.floats(),
    plain,
    st.dictionaries(
        st.integers(-(2**63), 2**63) | st.booleans() | st.floats() | st.text(), plain, max_size=3
    ),
    st.integers(1, 3000).map(lambda depth: msgspec.Raw(b"\x91" * depth + b"\x90")),
    st.integers(1, 3000).map(lambda depth: msgspec.Raw(b"\x81\x80" * depth + b"\x90")),
)


@given(hostile)
def test_hostile_values_give_a_protocol_error_or_a_message(value: Any) -> None:
    for report in (value, {"x": value}):
        payload = msgspec.msgpack.encode(Surely(id=1, status="ok", report=report))
        feed(ClientConnection(), wire([WELCOME]) + frame(payload), [])
        feed(ServerConnection(), PREFACE + wire([HELLO]) + frame(payload), [])
